"""What the generator of `next_item` must be compared with: full rankings made of counts alone."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, diags

from benchmarks.next_item_cases import Case
from models.decoding.neighbours import NeighbourConfig
from models.training.folder import FolderData
from models.training.neighbour_table import neighbours_of
from schemas.catalog import item_key_of

POPULARITY = "popularity"
COSINE = "item co-occurrence (cosine)"
NEAREST = "recency-weighted co-occurrence (ALGORITHMS 7)"

Scores = npt.NDArray[np.float64]


def baseline_ranks(data: FolderData, cases: Sequence[Case]) -> dict[str, list[int | None]]:
    """Returns each target's place among all items outside of the history, of `train` alone."""
    keys = [item_key_of(item.item_id) for item in data.items]
    place = {key: row for row, key in enumerate(keys)}
    histories = [[place[item_key_of(a.item_id or "")] for a in case.past] for case in cases]
    counts, near = _cosines(data, len(keys), place)
    rankings = {
        POPULARITY: (counts for _ in cases),
        COSINE: (np.asarray(near[history].sum(axis=0)).ravel() for history in histories),
        NEAREST: _nearest(data, histories, np.array(keys)),
    }
    return {
        name: [
            _rank(scores + 1e-9 * counts, history, place[case.target_key])
            for scores, history, case in zip(rows, histories, cases, strict=True)
        ]
        for name, rows in rankings.items()
    }


def _cosines(data: FolderData, items: int, place: dict[int, int]) -> tuple[Scores, csr_matrix]:
    """Returns how many users chose each item, and the cosine over users of every two items."""
    users = {user: row for row, user in enumerate({action.user_id for action in data.actions})}
    rows = [users[action.user_id] for action in data.actions]
    columns = [place[item_key_of(action.item_id or "")] for action in data.actions]
    bought = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(users), items))
    bought.data[:] = 1.0
    counts = np.asarray(bought.sum(axis=0)).ravel()
    scale = diags(1 / np.sqrt(np.maximum(counts, 1)))
    return counts, csr_matrix(scale @ (bought.T @ bought) @ scale)


def _nearest(
    data: FolderData, histories: Sequence[Sequence[int]], keys: npt.NDArray[np.int64]
) -> Iterator[Scores]:
    """Yields the re-ranker's table as a ranking of its own, with every neighbour kept."""
    table = neighbours_of(data.actions, NeighbourConfig(weight=1.0, kept=len(keys)))
    everything = torch.from_numpy(keys).unsqueeze(0)
    for history in histories:
        read = torch.from_numpy(keys[list(history)]).unsqueeze(0)
        yield np.zeros(len(keys)) if table is None else table.shares(read, everything)[0].numpy()


def _rank(scores: Scores, history: Sequence[int], target: int) -> int:
    """Returns how many items outside of the history score higher than the target."""
    better = scores > scores[target]
    better[list(history)] = False
    return int(better.sum())
