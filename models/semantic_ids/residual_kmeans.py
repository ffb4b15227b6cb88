"""RQ-KMeans (OxygenREC, section 3.1; ALGORITHMS 1.1): one k-means a level, each on what the levels
above left over.

Left out here: the fusion of images and co-occurrence into the embedding; items are given by their
text alone.
"""

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from models.semantic_ids.assignment import Codebooks, nearest_codes
from schemas.errors import OxygenRecError

MAX_CODES = 32_767  # codes travel as int16


class CodebookConfigInvalid(OxygenRecError):
    """Levels or codes outside what an SID can hold."""

    def __init__(self, *, field: str, found: int, wanted: str) -> None:
        self.field = field
        self.found = found
        self.wanted = wanted
        super().__init__(f"codebooks: {field}: found {found}, wanted {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualKMeansConfig:
    """The paper has L = 3 and V = 8192; 64 codes suit the few hundred items of the demo."""

    levels: int = 3
    codes: int = 64
    iterations: int = 25
    restarts: int = 5  # the best of these: one start often merges two clusters of a small catalogue
    seed: int = 0


def fit_codebooks(
    embeddings: npt.NDArray[np.floating], config: ResidualKMeansConfig | None = None
) -> Codebooks:
    """Returns codebooks [L, V, D] fitted on `embeddings` [n, D]; equal input gives equal codebooks.

    With no more than V distinct residuals at a level, each of them is a code and the rest of the
    level repeats the first (never assigned: the smaller number wins). Raises
    `CodebookConfigInvalid`.
    """
    config = config or ResidualKMeansConfig()
    if not 1 <= config.codes <= MAX_CODES:
        raise CodebookConfigInvalid(field="codes", found=config.codes, wanted=f"1 to {MAX_CODES}")
    if config.levels < 1 or len(embeddings) == 0:
        field, found = ("levels", config.levels) if config.levels < 1 else ("embeddings", 0)
        raise CodebookConfigInvalid(field=field, found=found, wanted="at least 1")
    residuals = np.asarray(embeddings, dtype=np.float64)
    levels = []
    for level in range(config.levels):
        centroids = _fit_level(residuals.astype(np.float32), config, config.seed + level)
        residuals = residuals - centroids[nearest_codes(residuals, centroids.astype(np.float64))]
        levels.append(centroids)
    return Codebooks(centroids=np.stack(levels))


def _fit_level(
    points: npt.NDArray[np.float32], config: ResidualKMeansConfig, seed: int
) -> npt.NDArray[np.float32]:
    distinct = np.unique(points, axis=0)
    if len(distinct) <= config.codes:
        spare = np.repeat(distinct[:1], config.codes - len(distinct), axis=0)
        return np.concatenate([distinct, spare])
    kmeans = faiss.Kmeans(
        points.shape[1],
        config.codes,
        niter=config.iterations,
        seed=seed,
        nredo=config.restarts,
        min_points_per_centroid=1,  # a small catalogue is no mistake: no warning
        max_points_per_centroid=2**31 - 1,  # every item counts, none is sampled away
    )
    kmeans.train(points)
    return np.asarray(kmeans.centroids, dtype=np.float32)
