"""The quality report of a tokenizer, in small (ALGORITHMS 1.4). numpy only.

A lower reconstruction error does not mean fewer collisions: both are shown. Load balance (Gini,
perplexity) is left out here.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.semantic_ids.assignment import Codebooks

PERCENTILES = (50, 90, 99, 99.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """`coverage[l]` = used prefixes of length l + 1 over V^(l + 1).

    `items_per_sid` holds P50, P90, P99, P99.9 and the maximum. `collision_rate` = share of items
    that share their SID. `purity` = share of items in the largest category of their first code.
    `reconstruction_error` = mean |residual|^2 / mean |embedding|^2.
    """

    items: int
    distinct_sids: int
    coverage: tuple[float, ...]
    items_per_sid: tuple[float, ...]
    collision_rate: float
    purity: float
    reconstruction_error: float


def quality_report(
    codebooks: Codebooks, embeddings: npt.NDArray[np.floating], categories: Sequence[str]
) -> QualityReport:
    """Returns the report of `codebooks` on items [n, D] with their categories, n >= 1.

    Raises `EmbeddingsMismatch`.
    """
    sids = codebooks.assign(embeddings)
    sizes = np.unique(sids, axis=0, return_counts=True)[1]
    residuals = codebooks.residuals(embeddings)
    energy = float((embeddings.astype(np.float64) ** 2).sum())
    return QualityReport(
        items=len(sids),
        distinct_sids=len(sizes),
        coverage=_coverage(sids, codebooks.codes),
        items_per_sid=(*map(float, np.percentile(sizes, PERCENTILES)), float(sizes.max())),
        collision_rate=float(sizes[sizes > 1].sum() / len(sids)),
        purity=_purity(sids[:, 0], categories),
        reconstruction_error=float((residuals**2).sum()) / max(energy, 1e-12),
    )


def _coverage(sids: npt.NDArray[np.int16], codes: int) -> tuple[float, ...]:
    lengths = range(1, sids.shape[1] + 1)
    return tuple(len(np.unique(sids[:, :size], axis=0)) / float(codes) ** size for size in lengths)


def _purity(first_codes: npt.NDArray[np.int16], categories: Sequence[str]) -> float:
    by_code: dict[int, Counter[str]] = {}
    for code, category in zip(first_codes.tolist(), categories, strict=True):
        by_code.setdefault(code, Counter())[category] += 1
    return sum(max(count.values()) for count in by_code.values()) / len(categories)
