"""RQ-KMeans (OxygenREC, section 3.1; ALGORITHMS 1.1): one k-means a level, each on what the levels
above left over.

What is quantised is an item's feature (`item_features`). At catalogue scale the centroids are
learnt on a sample, drawn once by the seed and used at every level; every item is assigned in full.
"""

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from models.semantic_ids.assignment import CHUNK, Codebooks, nearest_codes
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
    """The paper has L = 3 and V = 8192; 64 codes suit the few hundred items of the demo.

    `points_per_code` bounds what a level learns from: at most V times as many rows, drawn by
    `seed`. Below V * points_per_code items every item counts.
    """

    levels: int = 3
    codes: int = 64
    iterations: int = 25
    restarts: int = 5  # the best of these: one start often merges two clusters of a small catalogue
    points_per_code: int = 256  # a mean of 256 points is known to 1/16 of their spread
    seed: int = 0


def fit_codebooks(
    embeddings: npt.NDArray[np.floating],
    config: ResidualKMeansConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Codebooks:
    """Returns codebooks [L, V, D] fitted on `embeddings` [n, D]; equal input gives equal codebooks.

    With no more than V distinct residuals at a level, each of them is a code and the rest of the
    level repeats the first (never assigned: the smaller number wins). `progress(done, total)` is
    told after each level. Raises `CodebookConfigInvalid`.
    """
    config = config or ResidualKMeansConfig()
    _check(config, len(embeddings))
    residuals = np.array(_sample(embeddings, config), dtype=np.float64)
    levels = []
    for level in range(config.levels):
        centroids = _fit_level(residuals.astype(np.float32), config, config.seed + level)
        _subtract_nearest(residuals, centroids.astype(np.float64))
        levels.append(centroids)
        if progress is not None:
            progress(level + 1, config.levels)
    return Codebooks(centroids=np.stack(levels))


def _check(config: ResidualKMeansConfig, embeddings: int) -> None:
    if not 1 <= config.codes <= MAX_CODES:
        raise CodebookConfigInvalid(field="codes", found=config.codes, wanted=f"1 to {MAX_CODES}")
    counts = {
        "levels": config.levels,
        "embeddings": embeddings,
        "points_per_code": config.points_per_code,
        "iterations": config.iterations,
        "restarts": config.restarts,
    }
    for field, found in counts.items():
        if found < 1:
            raise CodebookConfigInvalid(field=field, found=found, wanted="at least 1")


def _sample(
    embeddings: npt.NDArray[np.floating], config: ResidualKMeansConfig
) -> npt.NDArray[np.floating]:
    most = config.codes * config.points_per_code
    if len(embeddings) <= most:
        return embeddings
    rows = np.random.default_rng(config.seed).choice(len(embeddings), most, replace=False)
    return embeddings[np.sort(rows)]


def _subtract_nearest(
    residuals: npt.NDArray[np.float64], centroids: npt.NDArray[np.float64]
) -> None:
    for start in range(0, len(residuals), CHUNK):
        part = residuals[start : start + CHUNK]
        part -= centroids[nearest_codes(part, centroids)]


def _fit_level(
    points: npt.NDArray[np.float32], config: ResidualKMeansConfig, seed: int
) -> npt.NDArray[np.float32]:
    if not _more_distinct_than(config.codes, points):
        distinct = np.unique(points, axis=0)
        spare = np.repeat(distinct[:1], config.codes - len(distinct), axis=0)
        return np.concatenate([distinct, spare])
    kmeans = faiss.Kmeans(
        points.shape[1],
        config.codes,
        niter=config.iterations,
        seed=seed,
        nredo=config.restarts,
        min_points_per_centroid=1,  # a small catalogue is no mistake: no warning
        max_points_per_centroid=2**31 - 1,  # sampled above, once for all levels
    )
    kmeans.train(points)
    return np.asarray(kmeans.centroids, dtype=np.float32)


def _more_distinct_than(codes: int, points: npt.NDArray[np.float32]) -> bool:
    """Stops at the first row too many: sorting a million rows would take a minute."""
    seen: set[bytes] = set()
    for row in points:
        seen.add(row.tobytes())
        if len(seen) > codes:
            return True
    return False
