"""The offline losses: next-code cross-entropy weighted by behaviour, and the item head's, trained
jointly; with IGR the query-to-item loss (OxygenREC, eq. 3), with experts their load balance.

The first two are taken over what serving can return: the next code over the legal children (the
distribution that is served), the item over the catalogue. Legend: B requests, L levels, N candidate
items.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn import functional as F

from models.decoding.item_index import ItemIndex
from models.decoding.legal import sid_logprobs
from models.generator.batch import Batch
from models.generator.decoder import Decoding
from models.generator.experts import balance_loss, routing_recorded
from models.generator.generator import Generator
from models.generator.query_to_item import QueryToItemWeights, query_to_item_loss
from models.generator.retrieval import has_query
from schemas.actions import ActionType

# OxygenREC-v2: order 2.0, cart 1.5, click 1.2; everything else 1.0.
BEHAVIOUR_WEIGHTS: dict[ActionType, float] = {
    ActionType.ORDER: 2.0,
    ActionType.CART: 1.5,
    ActionType.CLICK: 1.2,
}
OTHER_WEIGHT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """What stands before each part; the codes have 1. `balance` is Switch's (arXiv 2101.03961)."""

    item: float = 1.0
    query_to_item: float = 0.2
    balance: float = 0.01
    q2i: QueryToItemWeights = field(default_factory=QueryToItemWeights)


LOSS_WEIGHTS = LossWeights()


class GenerationLoss(NamedTuple):
    """`loss` is what to minimise; the others are its parts, detached means (nats)."""

    loss: torch.Tensor
    code_ce: torch.Tensor
    item_ce: torch.Tensor
    query_to_item: torch.Tensor
    balance: torch.Tensor


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
    weights: LossWeights = LOSS_WEIGHTS,
) -> GenerationLoss:
    """Returns `mean(w_b * CE)` of the codes (summed over levels) plus that of the item head, plus
    what IGR and experts add.

    `target_B` and `candidates_N` are rows of the index. Without candidates the item's softmax is
    over the whole catalogue (small ones); otherwise over the candidates and the batch's targets.
    Under autocast the network runs in its precision; logits and losses are float32 all the same.
    """
    with routing_recorded(generator) as routed:
        decoding = generator.begin(batch, index)
        sids_B1L = index.codes_NL[target_B].long().unsqueeze(1)
        states_B1LD = decoding.states_of(sids_B1L)
    with torch.autocast(target_B.device.type, enabled=False):
        logprobs_BL = sid_logprobs(states_B1LD, generator.head, index, sids_B1L)[:, 0]
        code_B = -logprobs_BL.sum(dim=1)
        item_B = _item_ce(generator, decoding, target_B, index, candidates_N)
        q2i = _query_to_item(generator, batch, target_B, index, weights.q2i)
        balance = balance_loss(routed)
        loss = (weight_B * (code_B + weights.item * item_B)).mean()
        loss = loss + weights.query_to_item * q2i + weights.balance * balance
    parts = (code_B.mean(), item_B.mean(), q2i, balance)
    return GenerationLoss(loss, *(part.detach() for part in parts))


def _item_ce(
    generator: Generator,
    decoding: Decoding,
    target_B: torch.Tensor,
    index: ItemIndex,
    candidates_N: torch.Tensor | None,
) -> torch.Tensor:
    """Returns the item head's cross-entropy of every request, [B]."""
    if candidates_N is None:
        rows_N, place_B = torch.arange(len(index.keys_N), device=target_B.device), target_B
    else:
        rows_N = torch.cat([target_B, candidates_N]).unique()
        place_B = torch.searchsorted(rows_N, target_B)
    scores_BN = generator.item_scores(decoding, index, rows_N)
    return F.cross_entropy(scores_BN, place_B, reduction="none")


def _query_to_item(
    generator: Generator,
    batch: Batch,
    target_B: torch.Tensor,
    index: ItemIndex,
    weights: QueryToItemWeights,
) -> torch.Tensor:
    """Returns the Q2I loss of the rows that say what they want, 0 without IGR."""
    if generator.retrieval is None:
        return torch.zeros(())
    asked_B = has_query(batch)
    queries_BD = generator.retrieval.queries(batch, generator.scenario(batch, index))
    items_BD = generator.retrieval.keys(target_B, index)
    return query_to_item_loss(queries_BD[asked_B], items_BD[asked_B], weights)
