"""Which text encoder a catalogue is encoded with: the built-in one, all-MiniLM-L6-v2, or a folder
of its shape.

The built-in encoder is fitted on the catalogue and travels with the semantic IDs; the others stay
where they are and are recognised by their id.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.reasoning.text_encoder import CharacterEncoder
from schemas.encoding import EncoderMismatch

BUILTIN = "builtin"
MINILM = "minilm"
FOLDER = "folder"
MAX_FIT_TEXTS = 20_000  # the SVD's time grows with the texts: 30 s at 12,000 on one busy core
CHUNK = 1_024  # texts between two signs of progress


class TextEncoder(Protocol):
    """Texts to unit vectors, computed here (`agents.ports.TextEncoder` may ask a server)."""

    @property
    def encoder_id(self) -> str: ...
    @property
    def dim(self) -> int: ...
    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns [len(texts), dim] float32 rows of length 1 (0 where nothing is known)."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the encoder's files into `folder`."""
        ...


def fit_encoder(choice: str, texts: Sequence[str], seed: int) -> tuple[str, TextEncoder]:
    """Returns kind and encoder of `choice`: builtin (fitted on `texts`), minilm or a folder.

    Raises `TextEncoderUnfit` or `models.reasoning.minilm.EncoderFolderInvalid`.
    """
    if choice == BUILTIN:
        distinct = sorted(set(texts))
        if len(distinct) > MAX_FIT_TEXTS:
            distinct = Random(seed).sample(distinct, MAX_FIT_TEXTS)
        return BUILTIN, CharacterEncoder.fit(distinct)
    return (MINILM if choice == MINILM else FOLDER), _local(choice)


def reopen_encoder(folder: Path, kind: str, encoder_id: str, choice: str | None) -> TextEncoder:
    """Returns the encoder that the semantic IDs in `folder` were fitted with.

    Raises `EncoderMismatch` when `choice`, or what stands in its place, is another one.
    """
    found = choice or kind
    if found == FOLDER:
        raise _mismatch(folder, "none named", encoder_id)
    encoder = CharacterEncoder.load(folder) if found == BUILTIN else _local(found)
    if encoder.encoder_id != encoder_id:
        raise _mismatch(folder, encoder.encoder_id, encoder_id)
    return encoder


def encode_all(
    encoder: TextEncoder, texts: Sequence[str], progress: Callable[[int, int], None]
) -> npt.NDArray[np.float32]:
    """Returns [n, dim]; `progress(done, total)` is told after each chunk of texts."""
    rows = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    for start in range(0, len(texts), CHUNK):
        rows[start : start + CHUNK] = encoder.encode(texts[start : start + CHUNK])
        progress(min(start + CHUNK, len(texts)), len(texts))
    return rows


def _local(choice: str) -> TextEncoder:
    # torch is loaded only where such an encoder is asked for
    from models.reasoning.minilm import MiniLmEncoder, load_minilm

    return load_minilm() if choice == MINILM else MiniLmEncoder.load(Path(choice))


def _mismatch(folder: Path, found: str, wanted: str) -> EncoderMismatch:
    remedy = "name its folder with --encoder"
    return EncoderMismatch(place=str(folder), found=found, wanted=wanted, remedy=remedy)
