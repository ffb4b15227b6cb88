"""What semantic IDs were not fitted on, and should know all the same: next steps, and new items."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyarrow import parquet
from scipy.sparse import csr_matrix, diags

from models.semantic_ids.cooccurrence import Behaviour
from models.semantic_ids.item_features import unit_rows

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

COLD_SHARE = 0.1
NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Rows of the items at both ends of a step that was held out, [n] each."""

    before: Integers
    after: Integers

    def within(self, sids: npt.NDArray[np.int16]) -> dict[str, float]:
        """Returns the shares of steps inside one first code and one first pair of codes.

        `by_chance`: of two items drawn as the steps draw them, how often the first codes agree.
        """
        same = sids[self.before] == sids[self.after]
        ends = [np.bincount(sids[rows, 0]) / len(rows) for rows in (self.before, self.after)]
        size = max(map(len, ends))
        left, right = (np.pad(shares, (0, size - len(shares))) for shares in ends)
        return {
            "within_first": float(same[:, 0].mean()),
            "within_second": float(same[:, :2].all(axis=1).mean()),
            "by_chance": float(left @ right),
        }


def held_out_steps(data: Path, item_ids: Sequence[str]) -> Steps:
    """Returns each user's step from the last training item to the validation item."""
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    table = parquet.read_table(data / "interactions.parquet")
    last: dict[int, tuple[int, int]] = {}
    asked: dict[int, int] = {}
    for line in table.select(["user_id", "item_id", "pos", "split"]).to_pylist():
        row = row_of[str(line["item_id"])]
        if line["split"] == "train":
            last[line["user_id"]] = max(last.get(line["user_id"], (-1, -1)), (line["pos"], row))
        elif line["split"] == "valid":
            asked[line["user_id"]] = row
    users = sorted(last.keys() & asked.keys())
    return Steps(
        before=np.array([last[user][1] for user in users]),
        after=np.array([asked[user] for user in users]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdItems:
    """`behaviour` without the interactions of the items in `is_cold` [N]; `pairs` are the truth."""

    is_cold: npt.NDArray[np.bool_]
    behaviour: Behaviour
    pairs: csr_matrix

    @property
    def count(self) -> int:
        """How many items are cold and chosen with others."""
        return len(self._judged())

    def recall(self, rows: Floats) -> float:
        """Returns the mean over cold items: of the other items that it is chosen with, the share
        (of at most ten) among its ten nearest of all warm items by the cosine of `rows` [N, D].
        """
        warm = np.flatnonzero(~self.is_cold)
        unit = unit_rows(rows)
        shares = []
        for item in self._judged():
            nearest = warm[np.argsort(-(unit[warm] @ unit[item]), kind="stable")[:NEIGHBOURS]]
            truth = set(self.pairs[[item]].indices.tolist()) - set(np.flatnonzero(self.is_cold))
            shares.append(len(truth & set(nearest.tolist())) / min(NEIGHBOURS, len(truth)))
        return float(np.mean(shares))

    def _judged(self) -> list[int]:
        warm_partners = np.asarray(self.pairs @ ~self.is_cold).ravel()
        return [int(row) for row in np.flatnonzero(self.is_cold & (warm_partners > 0))]


def cold_items(behaviour: Behaviour, seed: int) -> ColdItems:
    """Takes the interactions of a tenth of the items away."""
    size = behaviour.pairs.shape[0]
    is_cold = np.random.default_rng(seed).random(size) < COLD_SHARE
    kept = diags((~is_cold).astype(float))
    without = csr_matrix(kept @ behaviour.pairs @ kept)
    without.eliminate_zeros()
    return ColdItems(
        is_cold=is_cold, behaviour=replace(behaviour, pairs=without), pairs=behaviour.pairs
    )
