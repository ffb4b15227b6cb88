"""What the `text_encoder` model computes: the texts of a batch in one pass of a BERT encoder.

The tensors are those of docs/contracts.md, batch dimension 1 in front. Torch alone: inside Triton's
stub tensors come and go through DLPack (its numpy accessors return nothing with numpy 2).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from models.reasoning.minilm import MiniLmEncoder
from models.serving.encoder_directory import read_encoder_manifest
from schemas.encoding import BadEncodingRequest, EncoderMismatch

INPUTS = ("TEXT_BYTES", "TEXT_ENDS")
MAX_TEXTS = 64  # of one request: a search's words would wait behind more
MAX_BYTES = 1_000_000  # 64 texts of the longest title, in bytes

Answer = dict[str, torch.Tensor] | BadEncodingRequest


class EncoderEngine:
    """The encoder of one version."""

    def __init__(self, version: Path) -> None:
        """Loads and warms it. Raises `EncoderFolderInvalid`, `EncoderMismatch` (a changed file)."""
        wanted = read_encoder_manifest(version).encoder_id
        self._encoder = MiniLmEncoder.load(version)
        if self._encoder.encoder_id != wanted:
            raise EncoderMismatch(
                place=str(version),
                found=self._encoder.encoder_id,
                wanted=wanted,
                remedy="publish the version again",
            )
        self._id = torch.tensor([list(wanted.encode())], dtype=torch.uint8)
        self._encoder.encode(["warm"])

    def answers(self, requests: Sequence[Mapping[str, torch.Tensor]]) -> list[Answer]:
        """Returns one answer a request, in order; a bad one is answered alone."""
        read = [_read(request) for request in requests]
        texts = [text for part in read if isinstance(part, list) for text in part]
        vectors = torch.from_numpy(self._encoder.encode(texts))
        answers: list[Answer] = []
        start = 0
        for part in read:
            if isinstance(part, BadEncodingRequest):
                answers.append(part)
                continue
            rows = vectors[None, start : start + len(part)].contiguous()
            answers.append({"VECTORS": rows, "ENCODER_ID": self._id})
            start += len(part)
        return answers


def texts_of(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Returns the texts of one request: text n is `TEXT_BYTES[TEXT_ENDS[n-1]:TEXT_ENDS[n]]`, UTF-8.

    Bytes behind the last end are padding. Raises `BadEncodingRequest`.
    """
    for name in INPUTS:
        if tensors[name].dim() != 2 or len(tensors[name]) != 1:
            found = f"shape {list(tensors[name].shape)}"
            raise BadEncodingRequest(field=name, found=found, wanted="[1, n]")
    joined = bytes(tensors["TEXT_BYTES"][0].numpy())
    ends = tensors["TEXT_ENDS"][0].tolist()
    if not 1 <= len(ends) <= MAX_TEXTS:
        wanted = f"1 to {MAX_TEXTS}"
        raise BadEncodingRequest(field="TEXT_ENDS", found=f"{len(ends)} texts", wanted=wanted)
    if len(joined) > MAX_BYTES:
        found, wanted = f"{len(joined)} bytes", f"at most {MAX_BYTES}"
        raise BadEncodingRequest(field="TEXT_BYTES", found=found, wanted=wanted)
    starts = [0, *ends[:-1]]
    if ends[-1] > len(joined) or any(a > b for a, b in zip(starts, ends, strict=True)):
        wanted = f"rising ends up to {len(joined)}"
        raise BadEncodingRequest(field="TEXT_ENDS", found=str(ends), wanted=wanted)
    try:
        return [joined[a:b].decode() for a, b in zip(starts, ends, strict=True)]
    except UnicodeDecodeError as error:
        raise BadEncodingRequest(field="TEXT_BYTES", found=str(error), wanted="UTF-8") from error


def _read(tensors: Mapping[str, torch.Tensor]) -> list[str] | BadEncodingRequest:
    try:
        return texts_of(tensors)
    except BadEncodingRequest as error:
        return error
