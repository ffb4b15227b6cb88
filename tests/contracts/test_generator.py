"""The port `Generator`, claim by claim, on both implementations: a real Triton, and in process."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agents.in_process_generator import InProcessGenerator
from agents.settings import ServingConfig, Settings
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy, write_version
from models.serving.triton_config import write_config
from schemas.generation import BadGenerationRequest, GenerationResponse, GeneratorUnavailable
from streams.connections import TritonConfig
from streams.local.triton import LocalTriton
from streams.triton_client import TritonGenerator
from tests.conftest import NO_CATALOG
from tests.models.decoding.small_neighbours import small_neighbours
from tests.models.generator.small_policy import CONTENT_DIM, SCENARIOS, request, small_policy

VERSION = 1
PATIENT_MS = 20_000  # correctness is claimed here, not speed
MAX_IN_FLIGHT = 4
SETTINGS = Settings(
    serving=ServingConfig(follow_catalog=False), triton=TritonConfig(max_in_flight=MAX_IN_FLIGHT)
)

AnyGenerator = TritonGenerator | InProcessGenerator


@pytest.fixture(scope="module")
def policy() -> LoadedPolicy:
    plain = small_policy(VERSION, seed=3)
    return replace(plain, neighbours=small_neighbours(plain.index))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, policy: LoadedPolicy) -> Path:
    root = tmp_path_factory.mktemp("repository")
    parts = (policy.manifest, policy.generator, policy.index, policy.neighbours)
    write_version(root / "generator", *parts)
    write_config(root / "generator", [VERSION], content_dim=CONTENT_DIM, levels=3)
    return root


@pytest.fixture(scope="module")
def own_triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    folder = tmp_path_factory.mktemp("own-triton")
    with LocalTriton(repository, folder, load=["generator"], environment=NO_CATALOG) as server:
        yield server


@pytest.fixture(params=["in_process", pytest.param("triton", marks=pytest.mark.integration)])
async def generator(
    request: pytest.FixtureRequest, repository: Path
) -> AsyncIterator[AnyGenerator]:
    opened: AbstractAsyncContextManager[AnyGenerator]
    if request.param == "triton":
        server: LocalTriton = request.getfixturevalue("own_triton")
        config = TritonConfig(grpc_url=server.grpc_url, max_in_flight=MAX_IN_FLIGHT)
        opened = TritonGenerator(config, SCENARIOS)
    else:
        opened = InProcessGenerator(repository / "generator", SETTINGS)
    async with opened as ready:
        await ready.prepare(VERSION)
        yield ready


async def test_an_answer_is_the_engines_and_stamped_by_the_model(
    generator: AnyGenerator, policy: LoadedPolicy
) -> None:
    asked = request(policy.index, 12, seed=4, trigger=True)
    wanted = GeneratorEngine(policy).generate([asked])[0]
    found = await generator.generate(asked, version=VERSION, deadline_ms=PATIENT_MS)
    assert isinstance(wanted, GenerationResponse)
    assert [item.item_key for item in found.items] == [item.item_key for item in wanted.items]
    for here, there in zip(wanted.items, found.items, strict=True):
        assert there.sid == here.sid
        assert there.logprobs == pytest.approx(here.logprobs, abs=1e-4)
        assert there.score == pytest.approx(here.score, abs=1e-4)
        assert there.table_term == pytest.approx(here.table_term, abs=1e-6)
    assert len({item.table_term for item in found.items}) > 2
    versions = (found.generation, found.policy_version, found.index_offset)
    assert versions == (policy.manifest.generation, VERSION, policy.manifest.index_offset)


async def test_items_fall_by_score_and_none_is_excluded(
    generator: AnyGenerator, policy: LoadedPolicy
) -> None:
    asked = request(policy.index, 5, seed=1, beams=30, excluded=0)
    first = await generator.generate(asked, version=VERSION, deadline_ms=PATIENT_MS)
    banned = [item.item_key for item in first.items[:5]]
    again = await generator.generate(
        msgspec.structs.replace(asked, exclude_keys=banned),
        version=VERSION,
        deadline_ms=PATIENT_MS,
    )
    scores = [item.score for item in again.items]
    assert scores == sorted(scores, reverse=True)
    assert len(again.items) <= 30
    assert not {item.item_key for item in again.items} & set(banned)


async def test_a_user_without_history_and_instruction_gets_an_answer(
    generator: AnyGenerator, policy: LoadedPolicy
) -> None:
    asked = request(policy.index, 0, instruction=False, excluded=0)
    found = await generator.generate(asked, version=VERSION, deadline_ms=PATIENT_MS)
    assert len(found.items) == asked.beams


async def test_a_version_that_is_not_there_is_named_as_the_cause(
    generator: AnyGenerator, policy: LoadedPolicy
) -> None:
    with pytest.raises(GeneratorUnavailable) as raised:
        await generator.generate(request(policy.index), version=77, deadline_ms=PATIENT_MS)
    assert (raised.value.cause, raised.value.version) == ("version", 77)


async def test_a_request_beyond_its_deadline_is_late(
    generator: AnyGenerator, policy: LoadedPolicy
) -> None:
    with pytest.raises(GeneratorUnavailable) as raised:
        await generator.generate(request(policy.index), version=VERSION, deadline_ms=1)
    assert raised.value.cause == "late"


async def test_more_requests_than_may_be_in_flight_are_refused_at_once(
    generator: AnyGenerator, policy: LoadedPolicy
) -> None:
    asked = request(policy.index)
    answers = await asyncio.gather(
        *(
            generator.generate(asked, version=VERSION, deadline_ms=PATIENT_MS)
            for _ in range(MAX_IN_FLIGHT + 2)
        ),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, GeneratorUnavailable)]
    assert [error.cause for error in refused] == ["full", "full"]
    assert sum(isinstance(answer, GenerationResponse) for answer in answers) == MAX_IN_FLIGHT
    await generator.generate(asked, version=VERSION, deadline_ms=PATIENT_MS)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scenario": "nowhere"}, "scenario"),
        ({"beams": 0}, "beams"),
        ({"instruction": b"\x00\x3c" * 3}, "instruction"),
    ],
)
async def test_a_bad_request_is_refused_by_field(
    generator: AnyGenerator, policy: LoadedPolicy, change: dict[str, object], field: str
) -> None:
    asked = msgspec.structs.replace(request(policy.index), **change)
    with pytest.raises(BadGenerationRequest) as raised:
        await generator.generate(asked, version=VERSION, deadline_ms=PATIENT_MS)
    assert raised.value.field == field
