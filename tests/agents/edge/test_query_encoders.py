"""The encoders of the generations at the edge: opened once, missing ones left out."""

from pathlib import Path

import numpy as np

from agents.edge.query_encoders import KEPT, QueryEncoders
from agents.settings import PathsConfig, Settings
from models.reasoning.text_encoder import CharacterEncoder
from streams.connections import TritonConfig
from streams.local.ports import free_ports
from tests.agents.encoder_generation import write_generation

TITLES = [
    "red umbrella",
    "blue tent",
    "green garden hose",
    "winter boots",
    "desk lamp",
    "ice maker",
]


def builtin(home: Path, generation: int) -> CharacterEncoder:
    fitted = CharacterEncoder.fit(TITLES[: 2 + generation])
    folder = home / "generations" / str(generation)
    fitted.save(folder)
    (folder / "manifest.json").write_text("{}")
    return fitted


async def test_a_generations_encoder_embeds_queries_once_it_is_loaded(tmp_path: Path) -> None:
    fitted = builtin(tmp_path, 4)
    async with QueryEncoders(Settings(paths=PathsConfig(home=str(tmp_path)))) as encoders:
        before = encoders.of(4)
        await encoders.load(4)
        loaded = encoders.of(4)
        assert before is None
        assert loaded is not None
        assert loaded.encoder_id == fitted.encoder_id
        found = await loaded.encode(["umbrella"], deadline_ms=25)
        np.testing.assert_allclose(found, fitted.encode(["umbrella"]), atol=1e-3)


async def test_the_two_generations_opened_last_are_kept(tmp_path: Path) -> None:
    async with QueryEncoders(Settings(paths=PathsConfig(home=str(tmp_path)))) as encoders:
        for generation in (1, 2, 1, 3):
            builtin(tmp_path, generation)
            await encoders.load(generation)
        kept = [generation for generation in (1, 2, 3) if encoders.of(generation)]
    assert kept == [1, 3]
    assert len(kept) == KEPT


async def test_an_edge_without_the_folder_goes_on_without_queries(tmp_path: Path) -> None:
    async with QueryEncoders(Settings(paths=PathsConfig(home=str(tmp_path)))) as encoders:
        await encoders.load(9)
        assert encoders.of(9) is None


async def test_an_encoder_that_does_not_answer_yet_is_asked_again_by_each_search(
    tmp_path: Path,
) -> None:
    wanted = write_generation(tmp_path, 1)
    triton = TritonConfig(grpc_url=f"127.0.0.1:{free_ports(1)[0]}")  # nobody listens
    settings = Settings(paths=PathsConfig(home=str(tmp_path)), triton=triton)
    async with QueryEncoders(settings) as encoders:
        await encoders.load(1)
        opened = encoders.of(1)
    assert opened is not None
    assert (opened.encoder_id, opened.dim) == (wanted.encoder_id, wanted.dim)
