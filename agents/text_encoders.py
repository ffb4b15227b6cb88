"""Opens the text encoder that a generation was made with, as its manifest says.

The built-in one is numpy and runs in this process. One that needs torch runs in Triton, as the
version of the model `text_encoder` that has the generation's number; where no Triton is to be had,
in this process too, as the generator does.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from agents.artifact_folders import generation_folder
from agents.ports import TextEncoder
from agents.settings import Settings
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.artifact import EncoderRecord
from models.semantic_ids.encoders import BUILTIN
from models.serving.encoder_directory import FOLDER
from schemas.encoding import EncoderMismatch, EncoderUnavailable
from streams.triton_encoder import TritonEncoder

if TYPE_CHECKING:
    from models.semantic_ids.encoders import TextEncoder as LocalEncoder

MANIFEST_NAME = "manifest.json"
# So few are encoded where they are: 0.1 ms a text, as much as the way to a thread and back
AT_ONCE = 4
PROBE = "probe"

Floats = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)


class GenerationEncoder(Struct, frozen=True, kw_only=True):
    """What a generation's manifest says about its encoder; `encoder` None: the built-in one."""

    encoder: EncoderRecord | None = None
    dim: int = 0

    @property
    def name(self) -> str:
        """Kind and id, for people."""
        return f"{self.encoder.kind} {self.encoder.encoder_id}" if self.encoder else BUILTIN

    @property
    def needs_torch(self) -> bool:
        """Whether it runs in Triton."""
        return self.encoder is not None and self.encoder.kind != BUILTIN


class InProcessEncoder:
    """The port `TextEncoder` on an encoder of this process, on a thread of its own."""

    def __init__(self, encoder: "LocalEncoder", thread: ThreadPoolExecutor, *, at_once: int = 0):
        """Up to `at_once` texts are encoded on the event loop instead."""
        self._encoder = encoder
        self._thread = thread
        self._at_once = at_once

    @property
    def encoder_id(self) -> str:
        """The encoder's own."""
        return self._encoder.encoder_id

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._encoder.dim

    async def encode(self, texts: Sequence[str], *, deadline_ms: int | None = None) -> Floats:
        """Returns [len(texts), dim] float32 rows. Raises `EncoderUnavailable` (late)."""
        if len(texts) <= self._at_once:
            return self._encoder.encode(texts)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None if deadline_ms is None else deadline_ms / 1_000):
                return await loop.run_in_executor(self._thread, self._encoder.encode, texts)
        except TimeoutError as error:
            detail = f"no answer within {deadline_ms} ms"
            raise EncoderUnavailable(cause="late", place="in process", detail=detail) from error


def generation_encoder(folder: Path) -> GenerationEncoder:
    """Returns what the manifest in a generation's folder says. Raises OSError without one."""
    return msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=GenerationEncoder)


@asynccontextmanager
async def encoder_of(settings: Settings, generation: int) -> AsyncIterator[TextEncoder]:
    """Yields the encoder of a generation; a server is not asked yet.

    Raises `TensorFileInvalid` or OSError for what is missing, and `EncoderMismatch` for files of
    another encoder than the manifest names.
    """
    folder = generation_folder(settings, generation)
    facts = generation_encoder(folder)
    if facts.encoder is not None and facts.needs_torch and settings.triton.grpc_url:
        async with TritonEncoder(
            settings.triton,
            generation=generation,
            encoder_id=facts.encoder.encoder_id,
            dim=facts.dim,
        ) as remote:
            yield remote
        return
    load = _transformer if facts.needs_torch else CharacterEncoder.load
    with _thread() as thread:
        local = await asyncio.get_running_loop().run_in_executor(thread, load, folder)
        _check(folder, local.encoder_id, facts)
        yield InProcessEncoder(local, thread, at_once=0 if facts.needs_torch else AT_ONCE)


@asynccontextmanager
async def open_encoder(settings: Settings, generation: int) -> AsyncIterator[TextEncoder]:
    """Yields the encoder of a generation for a worker, once it has answered.

    It waits for a Triton that does not serve it yet. Raises what `encoder_of` raises, and
    `EncoderMismatch` where Triton serves another.
    """
    async with encoder_of(settings, generation) as encoder:
        await encoder.encode([PROBE])
        yield encoder


def _check(folder: Path, found: str, facts: GenerationEncoder) -> None:
    if facts.encoder is not None and facts.encoder.encoder_id != found:
        raise EncoderMismatch(
            place=str(folder),
            found=found,
            wanted=facts.encoder.encoder_id,
            remedy="restore the generation's folder or train it anew",
        )


def _transformer(folder: Path) -> "LocalEncoder":
    import torch  # only where no Triton is

    from models.reasoning.minilm import MiniLmEncoder

    torch.set_num_threads(1)  # of this thread: more only wait for the trainer's
    logger.warning("no Triton: the text encoder runs inside this process, on one thread")
    return MiniLmEncoder.load(folder / FOLDER)


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    thread = ThreadPoolExecutor(1, "text-encoder")
    try:
        yield thread
    finally:
        thread.shutdown(wait=False)  # what was asked before is answered
