"""The quality report of a tokenizer (ALGORITHMS 1.4). numpy only.

It is counted on the SIDs alone, so that it is the same for a fit of today and for an artifact that
has grown since. A lower reconstruction error does not mean fewer collisions: both are shown.
Shapes: n items, L levels, V codes a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PERCENTILES = (50, 90, 99, 99.9)
PERCENTILE_NAMES = ("P50", "P90", "P99", "P99.9", "max")
CATEGORY_SEPARATOR = " > "
CATEGORY_DEPTHS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelQuality:
    """How one level's codes are used, whatever stands before them.

    `coverage` = used prefixes of this length / V^length. `gini` of the items per code, unused codes
    included: 0 is equal load. `perplexity` = exp(entropy of the codes in nats), at most V.
    """

    prefixes: int
    coverage: float
    codes_used: int
    gini: float
    perplexity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """`items_per_sid` holds P50, P90, P99, P99.9 and the maximum over the used SIDs.

    `collision_rate` = share of items that share their SID. `purity[d]` = share of items that are in
    the largest category of their first code, categories cut to their first d + 1 names; items
    without a category are left out, and it is empty where no item has one.
    `reconstruction_error` = sum |e - its centroids|^2 / sum |e|^2, None where the vectors are
    unknown.
    """

    items: int
    distinct_sids: int
    levels: tuple[LevelQuality, ...]
    items_per_sid: tuple[float, ...]
    collision_rate: float
    purity: tuple[float, ...]
    reconstruction_error: float | None


def quality_report(
    sids: npt.NDArray[np.integer],
    codes: int,
    categories: Sequence[str],
    *,
    squared_errors: npt.NDArray[np.floating] | None = None,
    squared_lengths: npt.NDArray[np.floating] | None = None,
) -> QualityReport:
    """Returns the report of `sids` [n, L], n >= 1, whose codes lie in [0, codes).

    `categories` are paths such as `Beauty > Makeup > Nails`; `squared_errors` and
    `squared_lengths` [n] are |e - its centroids|^2 and |e|^2.
    """
    sizes = np.unique(sids, axis=0, return_counts=True)[1]
    error = None
    if squared_errors is not None and squared_lengths is not None:
        energy = float(squared_lengths.sum(dtype=np.float64))
        error = float(squared_errors.sum(dtype=np.float64)) / max(energy, 1e-12)
    return QualityReport(
        items=len(sids),
        distinct_sids=len(sizes),
        levels=tuple(_level(sids, level, codes) for level in range(sids.shape[1])),
        items_per_sid=(*map(float, np.percentile(sizes, PERCENTILES)), float(sizes.max())),
        collision_rate=float(sizes[sizes > 1].sum() / len(sids)),
        purity=_purity_by_depth(sids[:, 0], categories),
        reconstruction_error=error,
    )


def gini(loads: npt.NDArray[np.integer]) -> float:
    """Returns the Gini coefficient of loads [V], not all 0: 0 when equal, 1 - 1/V when one has
    all.
    """
    ordered = np.sort(loads).astype(np.float64)
    ranks = np.arange(1, len(ordered) + 1)
    share = float((ranks * ordered).sum() / ordered.sum())
    return (2 * share - len(ordered) - 1) / len(ordered)


def _level(sids: npt.NDArray[np.integer], level: int, codes: int) -> LevelQuality:
    prefixes = len(np.unique(sids[:, : level + 1], axis=0))
    loads = np.bincount(sids[:, level], minlength=codes)
    shares = loads[loads > 0] / len(sids)
    return LevelQuality(
        prefixes=prefixes,
        coverage=prefixes / float(codes) ** (level + 1),
        codes_used=len(shares),
        gini=gini(loads),
        perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
    )


def _purity_by_depth(
    first_codes: npt.NDArray[np.integer], categories: Sequence[str]
) -> tuple[float, ...]:
    known = np.array([bool(category) for category in categories])
    paths = [category.split(CATEGORY_SEPARATOR) for category in categories if category]
    depths = range(1, 1 + min(CATEGORY_DEPTHS, max(map(len, paths), default=0)))
    return tuple(
        _purity(first_codes[known], [CATEGORY_SEPARATOR.join(path[:depth]) for path in paths])
        for depth in depths
    )


def _purity(first_codes: npt.NDArray[np.integer], categories: Sequence[str]) -> float:
    names = np.unique(np.array(categories), return_inverse=True)[1]
    cells, counts = np.unique(np.stack([first_codes, names], 1), axis=0, return_counts=True)
    largest: dict[int, int] = {}
    for code, count in zip(cells[:, 0].tolist(), counts.tolist(), strict=True):
        largest[code] = max(largest.get(code, 0), count)
    return sum(largest.values()) / len(categories)
