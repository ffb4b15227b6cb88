"""Who is chosen with whom, as vectors: PPMI of co-occurrence counts, factorised by a truncated SVD.
numpy and scipy only.

Contexts of an item are the items near it in a user's sequence and the queries it was found by: both
are columns of one matrix. Only training interactions may come in here. Shapes: N items, Q queries,
C dimensions.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix, diags, hstack
from scipy.sparse.linalg import svds

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

DENSE_BELOW = 512  # rows or columns: a dense SVD takes milliseconds, and the sparse one wants k < N
SMALLEST_SHARE = 1e-6  # singular values below this share of the largest are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class CooccurrenceConfig:
    """`window` positions to each side count, weighted 1/distance (as in ALGORITHMS 7's KNN).

    `smoothing` is the power on the contexts' counts: it keeps rare contexts from the largest PPMI.
    """

    dim: int = 128
    window: int = 5
    smoothing: float = 0.75
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Who chose what with what, and by which query: `pairs` [N, N] and `queries` [N, Q] count
    co-occurrence.
    """

    pairs: csr_matrix
    queries: csr_matrix | None = None
    query_texts: list[str] = field(default_factory=list)
    interactions: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def count_pairs(users: Integers, items: Integers, size: int, window: int) -> csr_matrix:
    """Returns symmetric counts [N, N], N = `size`: sum over the pairs of a user's sequence of
    1/distance.

    `users` and `items` [n] are aligned; each user's rows stand together, in order. An item beside
    itself counts nothing.
    """
    ahead = count_ahead(users, items, size, window)
    return csr_matrix(ahead + ahead.T)


def count_ahead(users: Integers, items: Integers, size: int, window: int) -> csr_matrix:
    """Returns the half of `count_pairs` in which the column's item was chosen after the row's."""
    rows, columns, weights = [], [], []
    for distance in range(1, window + 1):
        left, right = items[:-distance], items[distance:]
        kept = (users[:-distance] == users[distance:]) & (left != right)
        rows.append(left[kept])
        columns.append(right[kept])
        weights.append(np.full(int(kept.sum()), 1.0 / distance))
    return coo_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))),
        shape=(size, size),
    ).tocsr()


def count_queries(items: Integers, queries: Integers, shape: tuple[int, int]) -> csr_matrix:
    """Returns how often each item was found by each query, [N, Q] = `shape`."""
    ones = np.ones(len(items))
    return csr_matrix(coo_matrix((ones, (items, queries)), shape=shape))


def behaviour_vectors(
    pairs: csr_matrix, queries: csr_matrix | None, config: CooccurrenceConfig
) -> Floats:
    """Returns [N, C] rows of length 1, C <= `config.dim`; 0 for an item with no context at all.

    Rows are U sqrt(S) of the PPMI matrix. Equal counts give equal vectors.
    """
    counts = pairs if queries is None else csr_matrix(hstack([pairs, queries]))
    if counts.nnz == 0:
        return np.zeros((counts.shape[0], 0), dtype=np.float32)
    left, values = _left_singular(ppmi(counts, config.smoothing), config)
    rows = left * np.sqrt(values)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.where(lengths > 1e-9, rows / np.maximum(lengths, 1e-9), 0)
    return np.ascontiguousarray(unit, dtype=np.float32)


def ppmi(counts: csr_matrix, smoothing: float) -> csr_matrix:
    """Returns max(0, log P(i, c) / (P(i) P_s(c))), P_s(c) proportional to count(c)^smoothing."""
    total = counts.sum()
    of_item = np.asarray(counts.sum(axis=1)).ravel() / total
    of_context = np.asarray(counts.sum(axis=0)).ravel() ** smoothing
    of_context = of_context / of_context.sum()
    cells = counts.tocoo()
    expected = of_item[cells.row] * of_context[cells.col]
    gains = np.maximum(np.log(cells.data / total / expected), 0)
    found = csr_matrix((gains, (cells.row, cells.col)), shape=counts.shape)
    found.eliminate_zeros()
    return found


def _left_singular(
    matrix: csr_matrix, config: CooccurrenceConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns U [N, C] and S [C], largest first; each column's largest entry is positive."""
    if min(matrix.shape) <= max(DENSE_BELOW, config.dim + 1):
        left, values, _ = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        start = np.random.default_rng(config.seed).standard_normal(min(matrix.shape))
        left, values, _ = svds(matrix, k=config.dim, v0=start)
    order = np.argsort(-values, kind="stable")[: config.dim]
    order = order[values[order] > SMALLEST_SHARE * max(float(values.max()), 1e-12)]
    left, values = left[:, order], values[order]
    peaks = np.abs(left).argmax(axis=0)
    return left @ diags(np.sign(left[peaks, np.arange(len(order))])), values
