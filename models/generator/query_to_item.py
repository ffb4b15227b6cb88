"""The query-to-item loss: queries near the items they lead to, no negatives (OxygenREC, eq. 2).

Legend: B requests, D dimensions.
"""

from dataclasses import dataclass

import torch

FLOOR = 1e-4  # of D Var, whose largest value is 1: the gradient survives a collapse


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryToItemWeights:
    """l_r of the variance terms, l_d of the decorrelation (ours: the paper gives no numbers)."""

    variance: float = 0.01
    decorrelation: float = 0.01


def query_to_item_loss(
    queries_BD: torch.Tensor, items_BD: torch.Tensor, weights: QueryToItemWeights
) -> torch.Tensor:
    """Returns `-mean(q_i.t_i) - l_r [log(D Var(Q) + f) + log(D Var(T) + f)] + l_d mean_{i != j}
    (q_i.q_j)^2` of unit vectors; 0 for fewer than two rows. It may be negative.

    Var is the mean over dimensions of the batch's variance. The paper's `-log(Var Var)` clamped
    from below has no gradient where all vectors are equal, which is what it is there to prevent.
    """
    count = len(queries_BD)
    if count < 2:
        return (queries_BD.sum() + items_BD.sum()) * 0.0
    attraction = -(queries_BD * items_BD).sum(dim=1).mean()
    spread = sum(torch.log(_total_variance(x_BD) + FLOOR) for x_BD in (queries_BD, items_BD))
    gram_BB = queries_BD @ queries_BD.T
    off_diagonal = gram_BB.square().sum() - gram_BB.diagonal().square().sum()
    decorrelation = off_diagonal / (count * (count - 1))
    return attraction - weights.variance * spread + weights.decorrelation * decorrelation


def _total_variance(x_BD: torch.Tensor) -> torch.Tensor:
    """D Var: the sum over dimensions of the batch's (population) variance, 0 to 1."""
    return x_BD.var(dim=0, correction=0).sum()
