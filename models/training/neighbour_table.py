"""The table of neighbours from training actions alone (ALGORITHMS 7): its counts are the ones that
semantic IDs are aligned with, taken in their direction.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, diags

from models.decoding.neighbours import NeighbourConfig, Neighbours
from models.semantic_ids.cooccurrence import count_ahead
from models.training.examples import chooses
from models.training.instructions import behaviour_of
from schemas.actions import UserAction

Integers = npt.NDArray[np.int64]


def neighbours_of(actions: Sequence[UserAction], config: NeighbourConfig) -> Neighbours | None:
    """Returns the table of all choices in `actions`, which may come in any order; None where it is
    off or nobody chose two different items.
    """
    if config.weight == 0:
        return None
    ordered = sorted(actions, key=lambda a: (a.user_id, a.event_time_ms, a.event_id))
    chosen = [(a.user_id, b.item_key) for a in ordered if chooses(b := behaviour_of(a))]
    if not chosen:
        return None
    users, keys = zip(*chosen, strict=True)
    number_of = {user: number for number, user in enumerate(dict.fromkeys(users))}
    return table_of(np.array([number_of[user] for user in users]), np.array(keys), config)


def table_of(users: Integers, keys: Integers, config: NeighbourConfig) -> Neighbours | None:
    """Returns the table of choices [n], each user's together and in order, or None without a pair.

    Equal weights are kept in the order of item keys.
    """
    distinct, items = np.unique(keys, return_inverse=True)
    ahead = count_ahead(users, items, len(distinct), config.window)
    counts = ahead + config.backward * ahead.T
    damped = counts @ diags(np.bincount(items) ** -config.damping)
    kept = strongest(csr_matrix(damped), config.kept)
    if kept.nnz == 0:
        return None
    return Neighbours(
        keys_T=torch.from_numpy(distinct.astype(np.int64)),
        starts=torch.from_numpy(kept.indptr.astype(np.int64)),
        places_E=torch.from_numpy(kept.indices.astype(np.int32)),
        weights_E=torch.from_numpy(kept.data.astype(np.float32)),
        config=config,
    )


def strongest(weights: csr_matrix, count: int) -> csr_matrix:
    """Returns the `count` largest of each row, of equal ones those of smaller columns, and nothing
    that float32 cannot tell from 0.
    """
    cells = weights.tocoo()
    order = np.lexsort((cells.col, -cells.data, cells.row))
    rows = cells.row[order]
    first_of_row = np.searchsorted(rows, np.arange(weights.shape[0]))
    rank = np.arange(len(rows)) - first_of_row[rows]
    order = order[(rank < count) & (cells.data[order].astype(np.float32) > 0)]
    chosen = (cells.data[order], (cells.row[order], cells.col[order]))
    return csr_matrix(chosen, shape=weights.shape)
