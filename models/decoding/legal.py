"""`legal` log-probs: a softmax over the children that the index's structure has, in stock or not
(ALGORITHMS 5).

So log pi(y | x) depends on (weights, generation, index_offset) alone: the search, the losses and
the policy trainer all score with these two functions. Masks of stock and request are applied to
their result, never before.

Legend: V codes, D width, P children of the root, K largest degree, X any leading shape.
"""

from typing import NamedTuple

import torch

from models.decoding.item_index import ItemIndex


class CodeHead(NamedTuple):
    """The output rows of every level: `weight_LVD`, `bias_LV`."""

    weight_LVD: torch.Tensor
    bias_LV: torch.Tensor


class Children(NamedTuple):
    """Children of some nodes, padded to the largest degree: log-probs (-inf on padding), node ids,
    codes.
    """

    logprobs_XK: torch.Tensor
    nodes_XK: torch.Tensor
    codes_XK: torch.Tensor


def root_logprobs(states_XD: torch.Tensor, head: CodeHead, index: ItemIndex) -> torch.Tensor:
    """Returns the log-probs of every first code in the index, [..., P], in node order."""
    codes_P = index.levels[0].codes.long()
    logits_XP = states_XD @ head.weight_LVD[0, codes_P].T + head.bias_LV[0, codes_P]
    return logits_XP.log_softmax(dim=-1)


def child_logprobs(
    states_XD: torch.Tensor, head: CodeHead, index: ItemIndex, level: int, parents_X: torch.Tensor
) -> Children:
    """Returns the children of `parents_X` (nodes of `level` - 1) with their log-probs.

    Only the legal rows of the output matrix are touched: K of them a parent instead of V.
    """
    nodes_XK, real_XK = index.children(level, parents_X)
    codes_XK = index.levels[level].codes[nodes_XK].long()
    weight_XKD = head.weight_LVD[level].index_select(0, codes_XK.flatten())
    weight_XKD = weight_XKD.view(*codes_XK.shape, -1)
    logits_XK = (weight_XKD @ states_XD.unsqueeze(-1)).squeeze(-1) + head.bias_LV[level][codes_XK]
    logprobs_XK = logits_XK.masked_fill(~real_XK, -torch.inf).log_softmax(dim=-1)
    return Children(logprobs_XK, nodes_XK, codes_XK)


def sid_logprobs(
    states_XLD: torch.Tensor, head: CodeHead, index: ItemIndex, sids_XL: torch.Tensor
) -> torch.Tensor:
    """Returns the log-prob of every code of the SIDs, [..., L], given the states that predict them.

    Differentiable. Raises `UnknownSemanticId` for a SID that the index does not hold.
    """
    nodes_XL = index.nodes_of(sids_XL)
    first = root_logprobs(states_XLD[..., 0, :], head, index)
    chosen = [first.gather(-1, nodes_XL[..., :1]).squeeze(-1)]
    for level in range(1, index.depth):
        parents_X = nodes_XL[..., level - 1]
        children = child_logprobs(states_XLD[..., level, :], head, index, level, parents_X)
        first_child_X = index.levels[level - 1].first_child[parents_X].long()
        place_X1 = (nodes_XL[..., level] - first_child_X).unsqueeze(-1)
        chosen.append(children.logprobs_XK.gather(-1, place_X1).squeeze(-1))
    return torch.stack(chosen, dim=-1)
