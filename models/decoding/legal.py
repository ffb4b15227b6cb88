"""Which distribution the codes are drawn from, and its log-probs: search, losses and policy trainer
all score with these functions (ALGORITHMS 5).

`legal`, the default: a softmax over the children that the index's structure has, in stock or not.
`raw`: a softmax over all V codes, of which the illegal ones are never taken. Either way log pi(y|x)
depends on (weights, generation, index_offset) alone: masks of stock and request are applied to the
result, never before.

Legend: V codes, D width, P children of the root, K largest degree, X any leading shape.
"""

from enum import StrEnum
from typing import NamedTuple

import torch
from torch.nn import functional as F

from models.decoding.item_index import ItemIndex

# A gathered row of the output matrix is read once, a row of the dense product serves every beam:
# per logit the gather took 37-70 times as long (D 96 to 1024, V 64 to 8192, 50 beams, one core).
DENSE_UP_TO = 32


class ScoreSemantics(StrEnum):
    """What the softmax of a code runs over."""

    LEGAL = "legal"
    RAW = "raw"


class CodeHead(NamedTuple):
    """The output rows of every level: `weight_LVD`, `bias_LV`."""

    weight_LVD: torch.Tensor
    bias_LV: torch.Tensor


class ScoredChildren(NamedTuple):
    """Children of some nodes, padded: log-probs (-inf on padding) and node ids, [..., K]."""

    logprobs_XK: torch.Tensor
    nodes_XK: torch.Tensor


def root_logprobs(
    states_XD: torch.Tensor,
    head: CodeHead,
    index: ItemIndex,
    semantics: ScoreSemantics = ScoreSemantics.LEGAL,
) -> torch.Tensor:
    """Returns the log-probs of every first code in the index, [..., P], in node order."""
    logits_XV = F.linear(states_XD, head.weight_LVD[0], head.bias_LV[0])
    codes_P = index.levels[0].codes
    free = torch.compiler.is_exporting()  # then the catalogue's sizes are not known
    if not free and len(codes_P) == logits_XV.shape[-1]:  # each code begins some SID: both are one
        return logits_XV.log_softmax(dim=-1)
    if semantics is ScoreSemantics.RAW:
        return logits_XV.log_softmax(dim=-1)[..., codes_P.long()]
    return logits_XV[..., codes_P.long()].log_softmax(dim=-1)


def child_logprobs(
    states_XD: torch.Tensor,
    head: CodeHead,
    index: ItemIndex,
    level: int,
    parents_X: torch.Tensor,
    semantics: ScoreSemantics = ScoreSemantics.LEGAL,
) -> ScoredChildren:
    """Returns the children of `parents_X` (nodes of `level` - 1) with their log-probs."""
    children = index.children(level, parents_X)
    weight_VD, bias_V = head.weight_LVD[level], head.bias_LV[level]
    if semantics is ScoreSemantics.RAW:
        logprobs_XV = F.linear(states_XD, weight_VD, bias_V).log_softmax(dim=-1)
        logprobs_XK = logprobs_XV.gather(-1, children.labels_XK).masked_fill(
            children.padding_XK, -torch.inf
        )
    else:
        logits_XK = _logits(states_XD, weight_VD, bias_V, children.labels_XK)
        logprobs_XK = logits_XK.masked_fill(children.padding_XK, -torch.inf).log_softmax(dim=-1)
    return ScoredChildren(logprobs_XK, children.nodes_XK)


def _logits(
    states_XD: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor, codes_XK: torch.Tensor
) -> torch.Tensor:
    """Returns the logits of each state's own codes: the legal rows alone where V is large."""
    if torch.compiler.is_exporting():  # compiled, no gathered row is ever written
        return (weight_VD[codes_XK] * states_XD.unsqueeze(-2)).sum(dim=-1) + bias_V[codes_XK]
    if len(weight_VD) <= DENSE_UP_TO * codes_XK.shape[-1]:
        return F.linear(states_XD, weight_VD, bias_V).gather(-1, codes_XK)
    flat_X = codes_XK.flatten()
    weight_XKD = weight_VD.index_select(0, flat_X).view(*codes_XK.shape, -1)
    logits_XK1: torch.Tensor = weight_XKD @ states_XD.unsqueeze(-1)
    return logits_XK1.squeeze(-1) + bias_V.index_select(0, flat_X).view(codes_XK.shape)


def sid_logprobs(
    states_XLD: torch.Tensor,
    head: CodeHead,
    index: ItemIndex,
    sids_XL: torch.Tensor,
    semantics: ScoreSemantics = ScoreSemantics.LEGAL,
) -> torch.Tensor:
    """Returns the log-prob of every code of the SIDs, [..., L], given the states that predict them.

    Differentiable. Raises `UnknownSemanticId` for a SID that the index does not hold.
    """
    nodes_XL = index.nodes_of(sids_XL)
    first = root_logprobs(states_XLD[..., 0, :], head, index, semantics)
    chosen = [first.gather(-1, nodes_XL[..., :1]).squeeze(-1)]
    for level in range(1, index.depth):
        parents_X = nodes_XL[..., level - 1]
        children = child_logprobs(
            states_XLD[..., level, :], head, index, level, parents_X, semantics
        )
        first_child_X = index.levels[level - 1].first_child[parents_X].long()
        place_X1 = (nodes_XL[..., level] - first_child_X).unsqueeze(-1)
        chosen.append(children.logprobs_XK.gather(-1, place_X1).squeeze(-1))
    return torch.stack(chosen, dim=-1)
