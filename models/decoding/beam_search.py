"""Prefix-constrained beam search over the live catalogue (ALGORITHMS 5; xGR, OxygenREC section
3.2).

Exact: the masks are applied before any top-k, nothing is dropped before the best W of all children
are kept, and of equal scores the smaller SID wins: a node's id is its place in SID order, and the
id is part of what is compared. Every returned SID exists and holds an eligible item; min(W, live
SIDs) are returned, for each node that may be taken has a live leaf below it. Scores are not
renormalised by masks. No Python loop over beams or nodes, one over the L levels; step 0 runs at
width 1.

Legend: B requests, W beams, K children of a beam (padded), P nodes of a level, L levels, D width.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch

from models.decoding.item_index import ItemIndex
from models.decoding.legal import (
    CodeHead,
    ScoredChildren,
    ScoreSemantics,
    child_logprobs,
    root_logprobs,
)
from models.decoding.masks import Masks


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

    `leaves_BW` are leaf ids of the index, `logprobs_BWL` the log-probs of the codes under the
    search's score semantics, `scores_BW` their sum.
    """

    leaves_BW: torch.Tensor
    logprobs_BWL: torch.Tensor
    scores_BW: torch.Tensor

    @property
    def live_BW(self) -> torch.Tensor:
        """Which beams are answers."""
        return torch.isfinite(self.scores_BW)


class Beams(NamedTuple):
    """Prefixes of one length: their nodes, the places of the prefixes they continue, both [B, W];
    their codes' log-probs [B, W, length].
    """

    nodes_BW: torch.Tensor
    parents_BW: torch.Tensor
    logprobs_BWL: torch.Tensor

    @classmethod
    def first(cls, logprobs_BP: torch.Tensor, chosen_BW: torch.Tensor) -> Self:
        """Returns the chosen nodes of the first level."""
        own_BW1 = logprobs_BP.gather(1, chosen_BW).unsqueeze(2)
        return cls(chosen_BW, torch.zeros_like(chosen_BW), own_BW1)

    def children(
        self, states: BeamStates, head: CodeHead, index: ItemIndex, semantics: ScoreSemantics
    ) -> ScoredChildren:
        """Returns all children [B, W, K]; the decoder takes one step."""
        length = self.logprobs_BWL.shape[2]
        codes_BW = index.levels[length - 1].codes[self.nodes_BW].int()
        states_BWD = states.advance(length - 1, codes_BW, self.parents_BW)
        return child_logprobs(states_BWD, head, index, length, self.nodes_BW, semantics)

    def follow(self, children: ScoredChildren, chosen_BW: torch.Tensor) -> Self:
        """Returns the children at places `chosen_BW` of [W * K]."""
        parents_BW = chosen_BW // children.nodes_XK.shape[2]
        own_BW1 = children.logprobs_XK.flatten(1).gather(1, chosen_BW).unsqueeze(2)
        before_BWL = parents_BW.unsqueeze(2).expand(-1, -1, self.logprobs_BWL.shape[2])
        logprobs_BWL = torch.cat([self.logprobs_BWL.gather(1, before_BWL), own_BW1], dim=2)
        nodes_BW = children.nodes_XK.flatten(1).gather(1, chosen_BW)
        return type(self)(nodes_BW, parents_BW, logprobs_BWL)


def beam_search(
    states: BeamStates,
    head: CodeHead,
    index: ItemIndex,
    masks: Masks,
    beams: int,
    semantics: ScoreSemantics = ScoreSemantics.LEGAL,
) -> SearchResult:
    """Returns the best `beams` SIDs of every request; `masks` are `index.masks(...)`."""
    logprobs_BP = root_logprobs(states.first_BD, head, index, semantics)
    scores_BX = masks.close_roots(logprobs_BP)
    roots_P = torch.arange(scores_BX.shape[1], device=scores_BX.device)
    chosen_BW = best_places(scores_BX, roots_P, beams)
    kept = Beams.first(logprobs_BP, chosen_BW)
    for level in range(1, index.depth):
        children = kept.children(states, head, index, semantics)
        # Scores carry the masks: -inf once, -inf for ever. Log-probs are the structure's, unmasked.
        scores_BW1 = scores_BX.gather(1, chosen_BW).unsqueeze(2)
        totals_BWK = children.logprobs_XK + scores_BW1
        scores_BX = masks.close(level, totals_BWK, children.nodes_XK).flatten(1)
        chosen_BW = best_places(scores_BX, children.nodes_XK.flatten(1), beams)
        kept = kept.follow(children, chosen_BW)
    scores_BW = scores_BX.gather(1, chosen_BW)
    return SearchResult(
        leaves_BW=kept.nodes_BW, logprobs_BWL=kept.logprobs_BWL, scores_BW=scores_BW
    )


def best_places(scores_BX: torch.Tensor, ids_BX: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the places of the `count` largest float32 scores of each row, falling; of equal ones
    the smaller id (int64, 0 to 2^31 - 1) stands first. No score may be above 0.

    One `topk` over whole numbers that order as (|score|, id): the bits of a float that is not
    negative rise with it. (`topk` on the scores leaves open which of equal ones it takes.)
    """
    bits_BX = scores_BX.abs().view(torch.int32)  # never -0.0, which is equal to 0.0
    keys_BX = bits_BX.long().mul_(1 << 32).add_(ids_BX)
    if not torch.compiler.is_exporting():  # whoever exports gives `count` places, and fixes a shape
        count = min(count, keys_BX.shape[1])
    return keys_BX.topk(count, dim=1, largest=False).indices
