"""Which encoder is opened: the manifest's, and no other that may lie in its place."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from agents.settings import PathsConfig, Settings
from agents.text_encoders import GenerationEncoder, InProcessEncoder, encoder_of, open_encoder
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.artifact import EncoderRecord
from schemas.encoding import EncoderMismatch, EncoderUnavailable
from streams.connections import TritonConfig
from tests.agents.encoder_generation import write_generation
from tests.models.reasoning.tiny_encoder import write_encoder_folder

TITLES = ["red umbrella", "blue tent", "desk lamp", "ice maker"]


def settings(home: Path) -> Settings:
    return Settings(paths=PathsConfig(home=str(home)), triton=TritonConfig(grpc_url=""))


def write_builtin(home: Path, encoder_id: str) -> CharacterEncoder:
    folder = home / "generations" / "1"
    fitted = CharacterEncoder.fit(TITLES)
    fitted.save(folder)
    record = EncoderRecord(kind="builtin", encoder_id=encoder_id)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(GenerationEncoder(encoder=record)))
    return fitted


async def test_the_built_in_encoder_of_a_manifest_is_opened_and_another_is_refused(
    tmp_path: Path,
) -> None:
    fitted = write_builtin(tmp_path / "a", CharacterEncoder.fit(TITLES).encoder_id)
    async with open_encoder(settings(tmp_path / "a"), 1) as opened:
        assert opened.encoder_id == fitted.encoder_id
    write_builtin(tmp_path / "b", "characters-0")
    with pytest.raises(EncoderMismatch, match="wanted characters-0: restore the generation"):
        async with encoder_of(settings(tmp_path / "b"), 1):
            pass


async def test_another_encoder_in_the_generations_folder_is_refused(tmp_path: Path) -> None:
    wanted = write_generation(tmp_path, 1)
    write_encoder_folder(tmp_path / "generations" / "1" / "text_encoder", seed=1)
    with pytest.raises(EncoderMismatch, match=f"wanted {wanted.encoder_id}"):
        async with encoder_of(settings(tmp_path), 1):
            pass


class Slow:
    """An encoder that takes 0.2 s."""

    encoder_id = "slow"
    dim = 1

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        time.sleep(0.2)
        return np.ones((len(texts), 1), dtype=np.float32)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


async def test_a_deadline_holds_in_process_too() -> None:
    with ThreadPoolExecutor(1) as thread:
        encoder = InProcessEncoder(Slow(), thread)
        with pytest.raises(EncoderUnavailable, match="late: no answer within 10 ms"):
            await encoder.encode(["a"], deadline_ms=10)
        assert (await encoder.encode(["a"])).shape == (1, 1)
