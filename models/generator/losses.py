"""The offline losses: next-code cross-entropy weighted by behaviour, and the item head's, trained
jointly.

Both are taken over what serving can return: the next code over the legal children (the distribution
that is served), the item over the catalogue. Legend: B requests, L levels, N candidate items.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from models.decoding.item_index import ItemIndex
from models.decoding.legal import sid_logprobs
from models.generator.batch import Batch
from models.generator.generator import Generator
from schemas.actions import ActionType

# OxygenREC-v2: order 2.0, cart 1.5, click 1.2; everything else 1.0.
BEHAVIOUR_WEIGHTS: dict[ActionType, float] = {
    ActionType.ORDER: 2.0,
    ActionType.CART: 1.5,
    ActionType.CLICK: 1.2,
}
OTHER_WEIGHT = 1.0
ITEM_WEIGHT = 1.0  # of the item loss beside the code loss (ALGORITHMS 5)


class GenerationLoss(NamedTuple):
    """`loss` is what to minimise; the others are its parts, detached means (nats)."""

    loss: torch.Tensor
    code_ce: torch.Tensor
    item_ce: torch.Tensor


def behaviour_weight(action: ActionType) -> float:
    """Returns w_b of one target's behaviour."""
    return BEHAVIOUR_WEIGHTS.get(action, OTHER_WEIGHT)


def generation_loss(
    generator: Generator,
    batch: Batch,
    target_B: torch.Tensor,
    weight_B: torch.Tensor,
    index: ItemIndex,
    candidates_N: torch.Tensor | None = None,
) -> GenerationLoss:
    """Returns `mean(w_b * CE)` of the codes (summed over levels) plus that of the item head.

    `target_B` and `candidates_N` are rows of the index. Without candidates the item's softmax is
    over the whole catalogue (small ones); otherwise over the candidates and the batch's targets.
    """
    decoding = generator.begin(batch, index)
    sids_B1L = index.codes_NL[target_B].long().unsqueeze(1)
    states_B1LD = decoding.states_of(sids_B1L)
    logprobs_BL = sid_logprobs(states_B1LD, generator.head, index, sids_B1L)[:, 0]
    code_B = -logprobs_BL.sum(dim=1)
    if candidates_N is None:
        rows_N, place_B = torch.arange(len(index.keys_N)), target_B
    else:
        rows_N = torch.cat([target_B, candidates_N]).unique()
        place_B = torch.searchsorted(rows_N, target_B)
    scores_BN = generator.item_scores(decoding, index, rows_N)
    item_B = F.cross_entropy(scores_BN, place_B, reduction="none")
    loss = (weight_B * (code_B + ITEM_WEIGHT * item_B)).mean()
    return GenerationLoss(loss, code_B.mean().detach(), item_B.mean().detach())
