"""The generator on the real Triton server: parity, a bad request beside good ones, reload under
load.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
import torch
import tritonclient.grpc.aio as triton_grpc
from tritonclient.utils import InferenceServerException

from models.generator.batch import collate
from models.serving.compiled_record import CompiledArtifact
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy, published_versions, write_version
from models.serving.triton_config import write_config
from schemas.generation import GenerationRequest, GenerationResponse
from streams.local.triton import LocalTriton
from streams.triton_tensors import infer_inputs, request_arrays, response_of
from tests.models.generator.small_policy import CONTENT_DIM, SCENARIOS, request, small_policy
from tests.models.serving.compiled import BEAMS, policy_of

pytestmark = pytest.mark.integration

MODEL = "generator"
LOAD_TIMEOUT_S = 120


def publish(repository: Path, policy: LoadedPolicy, versions: list[int]) -> None:
    folder = repository / MODEL
    write_version(folder, policy.manifest, policy.generator, policy.index)
    write_config(folder, versions, content_dim=CONTENT_DIM, levels=3)


@pytest.fixture(scope="module")
def first() -> LoadedPolicy:
    return small_policy(1, seed=1)


@pytest.fixture(scope="module")
def served(triton: LocalTriton, model_repository: Path, first: LoadedPolicy) -> str:
    """The address of a server that serves version 1."""

    async def load() -> None:
        client = triton_grpc.InferenceServerClient(triton.grpc_url)
        await client.load_model(MODEL, client_timeout=LOAD_TIMEOUT_S)
        await client.close()

    if not (model_repository / MODEL / "1").exists():
        publish(model_repository, first, [1])
    asyncio.run(load())
    return triton.grpc_url


@pytest.fixture
async def client(served: str) -> AsyncIterator[triton_grpc.InferenceServerClient]:
    async with triton_grpc.InferenceServerClient(served) as opened:
        yield opened


async def ask(
    client: triton_grpc.InferenceServerClient, asked: GenerationRequest, version: str = "1"
) -> GenerationResponse:
    inputs = infer_inputs(request_arrays(asked, SCENARIOS, CONTENT_DIM))
    return response_of(await client.infer(MODEL, inputs, model_version=version))


async def test_served_log_probs_are_the_teacher_forced_ones(
    client: triton_grpc.InferenceServerClient, first: LoadedPolicy
) -> None:
    asked = [
        request(first.index, 20, seed=1),
        request(first.index, 0, seed=2, instruction=False),
        request(first.index, 7, seed=3, scenario="detail", trigger=True),
    ]
    answers = await asyncio.gather(*(ask(client, one) for one in asked))
    for one, answer in zip(asked, answers, strict=True):
        batch = collate([one], first.index, SCENARIOS)
        sids = torch.tensor([[item.sid for item in answer.items]])
        with torch.no_grad():
            wanted = first.generator.sid_logprobs(batch, sids, first.index)[0]
        served = torch.tensor([item.logprobs for item in answer.items])
        assert len(answer.items) == one.beams
        assert float((wanted - served).abs().max()) <= 1e-3


async def test_the_server_answers_what_the_engine_in_process_answers(
    client: triton_grpc.InferenceServerClient, first: LoadedPolicy
) -> None:
    asked = request(first.index, 12, seed=4, beams=50)
    here = GeneratorEngine(first).generate([asked])[0]
    assert isinstance(here, GenerationResponse)
    there = await ask(client, asked)
    assert [item.item_key for item in there.items] == [item.item_key for item in here.items]
    np.testing.assert_allclose(
        [item.score for item in there.items], [item.score for item in here.items], atol=1e-4
    )
    assert (there.generation, there.policy_version, there.index_offset) == (3, 1, 120)


async def test_a_bad_request_is_refused_by_name_and_those_beside_it_are_answered(
    client: triton_grpc.InferenceServerClient, first: LoadedPolicy
) -> None:
    good = [request(first.index, n, seed=n) for n in range(8)]
    bad = [msgspec.structs.replace(good[0], beams=0), msgspec.structs.replace(good[1], beams=9_999)]
    results = await asyncio.gather(
        *(ask(client, one) for one in [*good[:4], *bad, *good[4:]]), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, InferenceServerException)]
    assert len(refused) == 2
    assert all("beams" in str(error.message()) for error in refused)
    assert sum(isinstance(result, GenerationResponse) for result in results) == 8


async def test_a_new_version_takes_over_under_load_without_a_failed_request(
    client: triton_grpc.InferenceServerClient, model_repository: Path, first: LoadedPolicy
) -> None:
    second = small_policy(2, seed=2)
    answers: list[GenerationResponse] = []
    wanted = {"version": "1"}
    done = asyncio.Event()

    async def keep_asking() -> None:
        while not done.is_set():
            answers.append(await ask(client, request(first.index, 5), wanted["version"]))
            await asyncio.sleep(0.01)

    asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
    publish(model_repository, second, [1, 2])
    await client.load_model(MODEL, client_timeout=LOAD_TIMEOUT_S)
    wanted["version"] = "2"
    await asyncio.sleep(1.0)
    done.set()
    await asyncio.gather(*asking)  # raises when one request failed
    versions = [answer.policy_version for answer in answers]
    assert {1, 2} == set(versions)
    assert versions[-1] == 2
    batch = collate([request(first.index, 5)], second.index, SCENARIOS)
    last = answers[-1].items
    with torch.no_grad():
        again = second.generator.sid_logprobs(
            batch, torch.tensor([[item.sid for item in last]]), second.index
        )[0]
    assert float((again - torch.tensor([item.logprobs for item in last])).abs().max()) <= 1e-3


async def test_a_compiled_version_answers_as_the_engine_in_process_and_says_what_it_is(
    triton: LocalTriton,
    client: triton_grpc.InferenceServerClient,
    model_repository: Path,
    small_artifact: CompiledArtifact,
) -> None:
    policy = policy_of(version=7, seed=7)
    folder = model_repository / MODEL
    args = (policy.manifest, policy.generator, policy.index)
    write_version(folder, *args, compiled=small_artifact)
    write_config(folder, published_versions(folder), content_dim=CONTENT_DIM, levels=3)
    await client.load_model(MODEL, client_timeout=LOAD_TIMEOUT_S)
    asked = request(policy.index, 12, seed=4, beams=BEAMS)
    here = GeneratorEngine(policy).generate([asked])[0]
    assert isinstance(here, GenerationResponse)
    there = await ask(client, asked, "7")
    assert [item.item_key for item in there.items] == [item.item_key for item in here.items]
    np.testing.assert_allclose(
        [item.logprobs for item in there.items], [item.logprobs for item in here.items], atol=1e-5
    )
    told = await asyncio.to_thread(lambda: httpx.get(triton.metrics_url).text)
    assert 'oxygenrec_compiled_decoding{policy_version="7"} 1' in told
