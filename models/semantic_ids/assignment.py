"""Embeddings to semantic IDs by frozen codebooks: the nearest code of every level's residual. numpy
only.

A published SID never moves within a generation: new items are assigned by the same codebooks and
appended (ALGORITHMS 1.5). Shapes: n items, L levels, V codes a level, D dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from models.tensor_file import TensorFileInvalid, read_tensors, write_tensors
from schemas.errors import OxygenRecError

FILE_NAME = "codebooks.safetensors"
CHUNK = 256  # rows at once: 16 MiB of float64 distances at 8192 codes, whatever n is


class EmbeddingsMismatch(OxygenRecError):
    """Embeddings of another shape than the codebooks quantise, or with NaN or infinity in it."""

    def __init__(self, *, found: str, wanted: str) -> None:
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"embeddings: found {found}, wanted {wanted}; encode with the generation's text encoder"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebooks:
    """`centroids` [L, V, D]. Distances are float64, so that a batch and a single item get the same
    codes.
    """

    centroids: npt.NDArray[np.float32]

    @property
    def levels(self) -> int:
        """The number of codes of one SID."""
        return int(self.centroids.shape[0])

    @property
    def codes(self) -> int:
        """The number of codes of one level."""
        return int(self.centroids.shape[1])

    def assign(self, embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
        """Returns the SIDs, int16 [n, L]; of two codes at the same distance the smaller number.

        Raises `EmbeddingsMismatch`.
        """
        return self.quantise(embeddings)[0]

    def quantise(
        self,
        embeddings: npt.NDArray[np.floating],
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
        """Returns the SIDs, int16 [n, L], and |e - sum of the item's centroids|^2, float32 [n].

        `progress(done, total)` is told after each chunk of rows. Raises `EmbeddingsMismatch`.
        """
        dim = self.centroids.shape[2]
        if embeddings.ndim != 2 or embeddings.shape[1] != dim:
            raise EmbeddingsMismatch(found=f"shape {embeddings.shape}", wanted=f"[n, {dim}]")
        sids = np.empty((len(embeddings), self.levels), dtype=np.int16)
        errors = np.empty(len(embeddings), dtype=np.float32)
        centroids = self.centroids.astype(np.float64)
        for start in range(0, len(embeddings), CHUNK):
            rows = slice(start, start + CHUNK)
            sids[rows], errors[rows] = _quantise_chunk(embeddings[rows], centroids)
            if progress is not None:
                progress(min(start + CHUNK, len(embeddings)), len(embeddings))
        return sids, errors

    def save(self, folder: Path) -> None:
        """Writes `codebooks.safetensors` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / FILE_NAME, {"centroids": self.centroids})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns the codebooks saved in `folder`. Raises `TensorFileInvalid`."""
        path = folder / FILE_NAME
        centroids = read_tensors(path, require=("centroids",))["centroids"]
        if centroids.ndim != 3:
            raise TensorFileInvalid(
                path=path, found=f"centroids of shape {centroids.shape}", wanted="[L, V, D]"
            )
        return cls(centroids=centroids)


def _quantise_chunk(
    embeddings: npt.NDArray[np.floating], centroids: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    residuals = embeddings.astype(np.float64)
    if not np.isfinite(residuals).all():
        raise EmbeddingsMismatch(found="NaN or infinity", wanted="finite numbers")
    sids = np.empty((len(residuals), len(centroids)), dtype=np.int16)
    for level, of_level in enumerate(centroids):
        nearest = nearest_codes(residuals, of_level)
        sids[:, level] = nearest
        residuals -= of_level[nearest]
    return sids, (residuals**2).sum(axis=1).astype(np.float32)


def nearest_codes(
    points: npt.NDArray[np.float64], centroids: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Returns argmin_j |x - c_j|^2 for each row: |x|^2 is the same for all j and left out."""
    return np.asarray(
        np.argmin((centroids**2).sum(axis=1) - 2 * points @ centroids.T, axis=1), dtype=np.int64
    )
