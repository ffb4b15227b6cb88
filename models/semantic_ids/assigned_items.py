"""The items that have a semantic ID: ids, SIDs, categories and what quantisation lost. numpy only.

Shapes: n items, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from models.semantic_ids.quality import QualityReport, quality_report
from models.tensor_file import Array, TensorFileInvalid, read_tensors, write_tensors
from schemas.catalog import item_key_of

FILE_NAME = "assignments.safetensors"
ALIGNED = ("item_keys", "sids", "squared_errors", "squared_lengths")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedItems:
    """Aligned by item: `sids` int16 [n, L], |e - its centroids|^2 and |e|^2 float32 [n]."""

    item_ids: list[str]
    categories: list[str]
    sids: npt.NDArray[np.int16]
    squared_errors: npt.NDArray[np.float32]
    squared_lengths: npt.NDArray[np.float32]

    def report(self, codes: int) -> QualityReport:
        """Returns the quality report of these items (ALGORITHMS 1.4)."""
        return quality_report(
            self.sids,
            codes,
            self.categories,
            squared_errors=self.squared_errors,
            squared_lengths=self.squared_lengths,
        )

    def save(self, folder: Path) -> None:
        """Writes `assignments.safetensors` into `folder`; `item_keys` are written for readers."""
        keys = np.array([item_key_of(item_id) for item_id in self.item_ids], dtype=np.int64)
        tensors: dict[str, Array] = {
            "item_keys": keys,
            "sids": self.sids,
            "squared_errors": self.squared_errors,
            "squared_lengths": self.squared_lengths,
            **_packed("item_ids", self.item_ids),
            **_packed("categories", self.categories),
        }
        write_tensors(folder / FILE_NAME, tensors)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns the items of `folder`. Raises `TensorFileInvalid`."""
        path = folder / FILE_NAME
        texts = [
            f"{name}.{part}" for name in ("item_ids", "categories") for part in ("bytes", "ends")
        ]
        tensors = read_tensors(path, require=(*ALIGNED, *texts))
        item_ids, categories = _unpacked(tensors, "item_ids"), _unpacked(tensors, "categories")
        lengths = {len(item_ids), len(categories), *(len(tensors[name]) for name in ALIGNED)}
        if len(lengths) != 1:
            raise TensorFileInvalid(path=path, found=f"lengths {lengths}", wanted="one length")
        return cls(
            item_ids=item_ids,
            categories=categories,
            sids=tensors["sids"],
            squared_errors=tensors["squared_errors"],
            squared_lengths=tensors["squared_lengths"],
        )

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        """Returns all items of `parts`, in their order."""
        return cls(
            item_ids=[item_id for part in parts for item_id in part.item_ids],
            categories=[category for part in parts for category in part.categories],
            sids=np.concatenate([part.sids for part in parts]),
            squared_errors=np.concatenate([part.squared_errors for part in parts]),
            squared_lengths=np.concatenate([part.squared_lengths for part in parts]),
        )


def _packed(name: str, texts: Sequence[str]) -> dict[str, Array]:
    """Texts in a format without strings: their UTF-8 bytes, and where each one ends."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    joined = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {f"{name}.bytes": joined, f"{name}.ends": ends}


def _unpacked(tensors: dict[str, Array], name: str) -> list[str]:
    data, ends = tensors[f"{name}.bytes"].tobytes(), tensors[f"{name}.ends"].tolist()
    return [data[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]
