"""The port `TextEncoder`, claim by claim: numpy in process, torch in process, torch on a Triton."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from agents.encoder_publisher import publish_encoder
from agents.ports import TextEncoder
from agents.settings import PathsConfig, Settings
from agents.text_encoders import open_encoder
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.encoders import TextEncoder as LocalEncoder
from streams.connections import TritonConfig
from streams.local.triton import LocalTriton
from tests.agents.encoder_generation import write_generation

GENERATION = 2
TEXTS = ["red umbrella", "two red tents", "rain", "", "Zelt für zwei", "rain for two " * 30]
PATIENT_MS = 20_000  # correctness is claimed here, not speed


@pytest.fixture(scope="module")
def triton_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton-encoder-home")


@pytest.fixture(scope="module")
def own_triton(
    triton_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalTriton]:
    repository = triton_home / "model_repository"
    repository.mkdir()
    with LocalTriton(repository, tmp_path_factory.mktemp("encoder-triton")) as server:
        yield server


@pytest.fixture(params=["builtin", "torch", pytest.param("triton", marks=pytest.mark.integration)])
async def encoders(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[TextEncoder, LocalEncoder]]:
    """The port, and the encoder behind it as it is without one."""
    home, grpc_url = tmp_path, ""
    if request.param == "triton":
        home, grpc_url = (
            request.getfixturevalue("triton_home"),
            request.getfixturevalue("own_triton").grpc_url,
        )
    settings = Settings(paths=PathsConfig(home=str(home)), triton=TritonConfig(grpc_url=grpc_url))
    local: LocalEncoder
    if request.param == "builtin":
        local = CharacterEncoder.fit([*TEXTS, "copper kettle"])
        folder = home / "generations" / str(GENERATION)
        local.save(folder)
        (folder / "manifest.json").write_text("{}")
    else:
        local = write_generation(home, GENERATION)
        assert await publish_encoder(settings, GENERATION) is (request.param == "triton")
    async with open_encoder(settings, GENERATION) as encoder:
        yield encoder, local


Encoders = tuple[TextEncoder, LocalEncoder]


async def test_vectors_are_the_encoders_own_and_so_is_the_id(encoders: Encoders) -> None:
    port, local = encoders
    found = await port.encode(TEXTS)
    assert (port.encoder_id, port.dim) == (local.encoder_id, local.dim)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, local.encode(TEXTS), atol=1e-5)


async def test_a_text_has_one_vector_in_whatever_company(encoders: Encoders) -> None:
    port, _ = encoders
    many = [*TEXTS] * 12  # more than one request of a remote one
    found = await port.encode(many)
    for row, text in zip(found, many, strict=True):
        [alone] = await port.encode([text], deadline_ms=PATIENT_MS)
        np.testing.assert_allclose(row, alone, atol=1e-5)


async def test_rows_are_of_length_1_and_0_where_there_is_no_word(encoders: Encoders) -> None:
    port, _ = encoders
    lengths = np.linalg.norm(await port.encode(TEXTS), axis=1)
    np.testing.assert_allclose(lengths, [0.0 if text == "" else 1.0 for text in TEXTS], atol=1e-5)


async def test_no_texts_are_no_rows(encoders: Encoders) -> None:
    port, _ = encoders
    assert (await port.encode([])).shape == (0, port.dim)
