"""Prefix-constrained beam search over the live catalogue (ALGORITHMS 5; xGR, OxygenREC section
3.2).

Exact: the masks are applied before any top-k, a parent keeps min(W, degree) children before the
best W of all are kept, and of equal scores the smaller SID wins. Every returned SID exists and
holds an eligible item; min(W, live SIDs) are returned, for each node that may be taken has a live
leaf below it. Scores are not renormalised by masks. No Python loop over beams or nodes, one over
the L levels; step 0 runs at width 1.

Legend: B requests, W beams, K children of a beam (padded), P nodes of a level, L levels, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from models.decoding.item_index import ItemIndex
from models.decoding.legal import CodeHead, child_logprobs, root_logprobs


class BeamStates(Protocol):
    """The decoder as the search sees it: states that predict the next code."""

    @property
    def first_BD(self) -> torch.Tensor:
        """The state that predicts the first code."""
        ...

    def advance(self, level: int, codes_BW: torch.Tensor, parents_BW: torch.Tensor) -> torch.Tensor:
        """Appends codes of `level` to the sequences at `parents_BW`; returns the states behind them
        [B, W, D].
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Finished beams by falling score, equal ones by SID. `live_BW` is False where fewer than W
    SIDs are live.

    `leaves_BW` are leaf ids of the index, `logprobs_BWL` the `legal` log-probs of the codes,
    `scores_BW` their sum.
    """

    leaves_BW: torch.Tensor
    logprobs_BWL: torch.Tensor
    scores_BW: torch.Tensor

    @property
    def live_BW(self) -> torch.Tensor:
        """Which beams are answers."""
        return torch.isfinite(self.scores_BW)


def beam_search(
    states: BeamStates,
    head: CodeHead,
    index: ItemIndex,
    alive: Sequence[torch.Tensor],
    beams: int,
) -> SearchResult:
    """Returns the best `beams` SIDs of every request; `alive` is `index.alive(...)`, bool [B, P_l]
    a level.
    """
    legal_BP = root_logprobs(states.first_BD, head, index)
    open_BP = legal_BP.masked_fill(~alive[0], -torch.inf)
    nodes_BW = first_best(open_BP, beams)
    scores_BW = open_BP.gather(1, nodes_BW)
    logprobs_BWL = legal_BP.gather(1, nodes_BW).unsqueeze(2)
    codes_BW = index.levels[0].codes[nodes_BW]
    parents_BW = torch.zeros_like(nodes_BW)
    for level in range(1, index.depth):
        states_BWD = states.advance(level - 1, codes_BW, parents_BW)
        children = child_logprobs(states_BWD, head, index, level, nodes_BW)
        below_BWK = children.nodes_XK
        taken_BWK = alive[level].gather(1, below_BWK.flatten(1)).view_as(below_BWK)
        open_BWK = children.logprobs_XK.masked_fill(~taken_BWK, -torch.inf)
        chosen_BW = _best_children(open_BWK + scores_BW.unsqueeze(2), beams)
        parents_BW = chosen_BW // below_BWK.shape[2]
        nodes_BW = below_BWK.flatten(1).gather(1, chosen_BW)
        codes_BW = children.codes_XK.flatten(1).gather(1, chosen_BW)
        own_BW1 = children.logprobs_XK.flatten(1).gather(1, chosen_BW).unsqueeze(2)
        # Scores carry the masks: -inf once, -inf for ever. Log-probs are the structure's, unmasked.
        scores_BW = scores_BW.gather(1, parents_BW) + open_BWK.flatten(1).gather(1, chosen_BW)
        kept_BWL = logprobs_BWL.gather(1, _along(parents_BW, logprobs_BWL))
        logprobs_BWL = torch.cat([kept_BWL, own_BW1], dim=2)
    order_BW = scores_BW.sort(dim=1, descending=True, stable=True).indices
    return SearchResult(
        leaves_BW=nodes_BW.gather(1, order_BW),
        logprobs_BWL=logprobs_BWL.gather(1, _along(order_BW, logprobs_BWL)),
        scores_BW=scores_BW.gather(1, order_BW),
    )


def first_best(scores_XP: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the places of the `count` largest of each row in rising order; of equal ones the
    first are taken.

    (`topk` leaves open which of equal scores it takes: its threshold is used, not its places.)
    """
    size = scores_XP.shape[-1]
    count = min(count, size)
    if count == size:
        return torch.arange(size).expand(scores_XP.shape)
    least_X1 = scores_XP.topk(count, dim=-1).values[..., -1:]
    above_XP = scores_XP > least_X1
    equal_XP = scores_XP == least_X1
    missing_X1 = count - above_XP.sum(dim=-1, keepdim=True)
    taken_XP = above_XP | (equal_XP & (equal_XP.cumsum(dim=-1) <= missing_X1))
    return taken_XP.nonzero()[:, -1].view(*scores_XP.shape[:-1], count)


def _best_children(totals_BWK: torch.Tensor, beams: int) -> torch.Tensor:
    """Returns places in [W * K], rising: beams stand in SID order, so rising places are rising
    SIDs.
    """
    degree = totals_BWK.shape[2]
    if degree <= beams:
        return first_best(totals_BWK.flatten(1), beams)
    own_BWX = first_best(totals_BWK, beams)
    best_BW = first_best(totals_BWK.gather(2, own_BWX).flatten(1), beams)
    start_W1 = (torch.arange(totals_BWK.shape[1]) * degree).unsqueeze(1)
    return (own_BWX + start_W1).flatten(1).gather(1, best_BW)


def _along(order_BW: torch.Tensor, values_BWL: torch.Tensor) -> torch.Tensor:
    return order_BW.unsqueeze(2).expand(-1, -1, values_BWL.shape[2])
