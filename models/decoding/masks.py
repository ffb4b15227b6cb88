"""What each request of a batch may be given, without a walk over the catalogue or a copy of it.

The counts of eligible items below each node belong to the index. A request adds only the nodes that
its own exclusions take the last item from: at most L an excluded item.

B requests, E excluded items of one, P nodes of a level, K scenarios, N items, D distinct
places, X any number; W beams of a request and K (padded) children of one in `close`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.decoding.levels import Level, Places

END = torch.iinfo(torch.int64).max  # closes a sorted list, so that each look-up finds a place


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """True until the index changes. Places are numbers b * P + node, or b * N + row.

    `counts` int32 [K, P] a level, `in_stock_N`, `scenarios_KN`: the index's own. `emptied`: a
    sorted list of places a level, None where it is empty; `excluded`: likewise of rows.
    """

    scenario_B: torch.Tensor
    counts: Sequence[torch.Tensor]
    in_stock_N: torch.Tensor
    scenarios_KN: torch.Tensor
    emptied: Sequence[torch.Tensor | None]
    excluded: torch.Tensor | None

    def empty_roots(self) -> torch.Tensor:
        """Returns whether no eligible item stands below each first code, bool [B, P]."""
        empty_BP = self.counts[0][self.scenario_B] == 0
        if (emptied := self.emptied[0]) is not None:
            empty_BP.view(-1)[emptied[:-1]] = True
        return empty_BP

    def empty(self, level: int, nodes_BX: torch.Tensor) -> torch.Tensor:
        """Returns whether no eligible item stands below nodes of `level`, bool [B, X]."""
        counts_KP = self.counts[level]
        empty_BX = _of_scenario(counts_KP, self.scenario_B, nodes_BX) == 0
        if (emptied := self.emptied[level]) is not None:
            empty_BX |= listed(emptied, nodes_BX, counts_KP.shape[1])
        return empty_BX

    def close_roots(self, logprobs_BP: torch.Tensor) -> torch.Tensor:
        """Returns the scores of all first codes, -inf for those that may not be taken."""
        return logprobs_BP.masked_fill(self.empty_roots(), -torch.inf)

    def close(self, level: int, scores_BWK: torch.Tensor, nodes_BWK: torch.Tensor) -> torch.Tensor:
        """Makes the scores of nodes that may not be taken -inf, in place, and returns them.

        `nodes_BWK` are the padded children of beams, as `Level.children` gives them.
        """
        empty_BX = self.empty(level, nodes_BWK.flatten(1))
        return scores_BWK.masked_fill_(empty_BX.view_as(scores_BWK), -torch.inf)

    def eligible(self, rows_BX: torch.Tensor) -> torch.Tensor:
        """Returns whether each request may be given the items of these rows, bool [B, X]."""
        shown_BX = _of_scenario(self.scenarios_KN, self.scenario_B, rows_BX)
        offered_BX = shown_BX & self.in_stock_N[rows_BX]
        if self.excluded is not None:
            offered_BX &= ~listed(self.excluded, rows_BX, len(self.in_stock_N))
        return offered_BX


def masks_of(
    *,
    levels: Sequence[Level],
    counts: Sequence[torch.Tensor],
    in_stock_N: torch.Tensor,
    scenarios_KN: torch.Tensor,
    leaf_N: npt.NDArray[np.int32],
    scenario_B: torch.Tensor,
    excluded_BE: Places,
) -> Masks:
    """Returns the masks; `excluded_BE` are rows, of which those below 0 and repeated ones change
    nothing.
    """
    excluded_BE.sort(axis=1)  # unknown ones first, repeated ones beside each other
    fresh_BE = excluded_BE >= 0
    fresh_BE[:, 1:] &= excluded_BE[:, 1:] != excluded_BE[:, :-1]
    number_X, column_X = fresh_BE.nonzero()
    rows_X = excluded_BE[number_X, column_X]
    scenario_X = scenario_B.numpy()[number_X]
    excluded = number_X * len(leaf_N) + rows_X
    takes_X = in_stock_N.numpy()[rows_X] & scenarios_KN.numpy()[scenario_X, rows_X]
    number_X, scenario_X = number_X[takes_X], scenario_X[takes_X]
    nodes_X = leaf_N[rows_X[takes_X]]
    emptied: list[torch.Tensor | None] = [None] * len(levels)
    for level in reversed(range(len(levels))):
        if level < len(levels) - 1:
            nodes_X = levels[level].parents(nodes_X)
        there_X = counts[level].numpy()[scenario_X, nodes_X]
        places_X = number_X * counts[level].shape[1] + nodes_X
        emptied[level] = _closed(_all_taken(places_X, there_X))
        if emptied[level] is None:
            break  # nor is a node above one that keeps an item
    return Masks(
        scenario_B=scenario_B,
        counts=counts,
        in_stock_N=in_stock_N,
        scenarios_KN=scenarios_KN,
        emptied=emptied,
        excluded=_closed(excluded),
    )


def _all_taken(places_X: Places, there_X: npt.NDArray[np.int32]) -> Places:
    """Returns the places, sorted, that stand in the list as often as they hold items."""
    order_X = places_X.argsort()
    places_X, there_X = places_X[order_X], there_X[order_X]
    if not (places_X[1:] == places_X[:-1]).any():  # the usual case, at a third of the time
        emptied: Places = places_X[there_X == 1]
        return emptied
    distinct_D, first_D, taken_D = np.unique(places_X, return_index=True, return_counts=True)
    return distinct_D[there_X[first_D] <= taken_D]


def _closed(places: Places) -> torch.Tensor | None:
    if not len(places):
        return None
    closed = np.empty(len(places) + 1, dtype=np.int64)
    closed[:-1] = places
    closed[-1] = END
    return torch.from_numpy(closed)


def _of_scenario(
    values_KP: torch.Tensor, scenario_B: torch.Tensor, places_BX: torch.Tensor
) -> torch.Tensor:
    # A card is not asked for the scenario's number: that would wait for all it has to do.
    if len(values_KP) == 1 or (len(scenario_B) == 1 and not scenario_B.is_cuda):
        scenario = 0 if len(values_KP) == 1 else int(scenario_B)
        return values_KP[scenario].index_select(0, places_BX.flatten()).view(places_BX.shape)
    return values_KP[scenario_B.unsqueeze(1), places_BX]


def listed(sorted_places: torch.Tensor, own_BX: torch.Tensor, size: int) -> torch.Tensor:
    """Returns whether a request's own places are in the sorted list, bool [B, X]."""
    if len(own_BX) > 1:
        first_B = torch.arange(len(own_BX), device=own_BX.device) * size
        own_BX = own_BX + first_B.unsqueeze(1)
    return sorted_places[torch.searchsorted(sorted_places, own_BX)] == own_BX
