"""Mixture-of-experts feed-forward: each token is sent to its top-k of E experts (OxygenREC, section
3.2; sizes in `config.PRESETS`).

Ours: softmax router, SwiGLU experts, no capacity (no token is ever dropped, so a request's result
does not depend on its neighbours), Switch's load-balance loss (arXiv 2101.03961, eq. 4-6). Left
out: expert parallelism. Sorting tokens by expert asks a device for the counts, once a layer, which
waits for it: on a card every expert reads every token where that is at most twice the work.

Legend: B requests, X tokens of each, T = B * X tokens, E experts, K chosen, D width, F inner
width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from models.generator.config import GeneratorConfig

MOST_WORK = 2


class Routed(NamedTuple):
    """What one call routed: router probabilities [T, E], the experts chosen [T, K]."""

    probabilities_TE: torch.Tensor
    chosen_TK: torch.Tensor


class GatedFeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): `(silu(x W_g) * x W_u) W_o`, without biases."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.gate_and_up = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.out = nn.Linear(config.feed_forward, config.width, bias=False)

    def forward(self, x_BXD: torch.Tensor) -> torch.Tensor:
        """Returns [B, X, D]."""
        gate, up = self.gate_and_up(x_BXD).chunk(2, dim=-1)
        out: torch.Tensor = self.out(F.silu(gate) * up)
        return out


class Experts(nn.Module):
    """E SwiGLU layers, of which each token uses `experts_per_token`, weighted by the router.

    The weights are the softmax's over all experts; of two and more chosen they are scaled to sum 1
    (of one they are not: a constant 1 would leave the router without a gradient).
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        experts, width, inner = config.experts, config.width, config.feed_forward
        self.chosen = config.experts_per_token
        self.router = nn.Linear(width, experts, bias=False)
        self.gate_and_up_EDF = nn.Parameter(torch.empty(experts, width, 2 * inner))
        self.out_EFD = nn.Parameter(torch.empty(experts, inner, width))
        nn.init.normal_(self.gate_and_up_EDF, std=width**-0.5)
        nn.init.normal_(self.out_EFD, std=inner**-0.5)
        self.routed: list[Routed] | None = None  # filled under `routing_recorded` alone

    def forward(self, x_BXD: torch.Tensor) -> torch.Tensor:
        """Returns [B, X, D]."""
        x_TD = x_BXD.reshape(-1, x_BXD.shape[-1])
        probabilities_TE = self.router(x_TD).softmax(dim=-1, dtype=torch.float32)
        weights_TK, chosen_TK = probabilities_TE.topk(self.chosen, dim=-1)
        if self.chosen > 1:
            weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
        if self.routed is not None:
            self.routed.append(Routed(probabilities_TE, chosen_TK))
        if x_TD.is_cuda and not self.sorts_on_a_card:
            return self.all_experts(x_TD, weights_TK, chosen_TK).view(x_BXD.shape)
        return self.by_expert(x_TD, weights_TK, chosen_TK).view(x_BXD.shape)

    @property
    def sorts_on_a_card(self) -> bool:
        """Whether all experts for all tokens would be too much work, so that a card is asked."""
        return len(self.out_EFD) > MOST_WORK * self.chosen

    def all_experts(
        self, x_TD: torch.Tensor, weights_TK: torch.Tensor, chosen_TK: torch.Tensor
    ) -> torch.Tensor:
        """Returns [T, D] from all experts for all tokens, 0 times those not chosen."""
        zeros_TE = weights_TK.new_zeros(len(x_TD), len(self.out_EFD))
        weights_TE = zeros_TE.scatter(1, chosen_TK, weights_TK).to(x_TD.dtype)
        gate_ETF, up_ETF = (x_TD @ self.gate_and_up_EDF).chunk(2, dim=-1)
        inner_ETF = F.silu(gate_ETF) * up_ETF * weights_TE.T.unsqueeze(2)
        return (inner_ETF @ self.out_EFD).sum(dim=0)

    def by_expert(
        self, x_TD: torch.Tensor, weights_TK: torch.Tensor, chosen_TK: torch.Tensor
    ) -> torch.Tensor:
        """Returns [T, D]: tokens are sorted by expert, so each expert runs once on its own."""
        order = chosen_TK.flatten().argsort(stable=True)
        tokens = order // self.chosen
        counts = chosen_TK.flatten().bincount(minlength=len(self.out_EFD)).tolist()
        parts = [
            self._expert(number, part)
            for number, part in enumerate(x_TD[tokens].split(counts))
            if len(part)
        ]
        weighted = torch.cat(parts) * weights_TK.flatten()[order].unsqueeze(1).to(x_TD.dtype)
        return torch.zeros_like(x_TD).index_add(0, tokens, weighted)

    def _expert(self, number: int, x_TD: torch.Tensor) -> torch.Tensor:
        gate, up = (x_TD @ self.gate_and_up_EDF[number]).chunk(2, dim=-1)
        out: torch.Tensor = (F.silu(gate) * up) @ self.out_EFD[number]
        return out


def sorts_tokens(model: nn.Module) -> bool:
    """Returns whether a layer of `model` waits for a card: no CUDA graph can hold it."""
    return any(isinstance(m, Experts) and m.sorts_on_a_card for m in model.modules())


@contextmanager
def routing_recorded(model: nn.Module) -> Iterator[list[list[Routed]]]:
    """Yields one list a mixture layer of `model`, filled by the calls inside the `with`."""
    layers = [module for module in model.modules() if isinstance(module, Experts)]
    for layer in layers:
        layer.routed = []
    try:
        yield [layer.routed for layer in layers if layer.routed is not None]
    finally:
        for layer in layers:
            layer.routed = None


def balance_loss(routed: list[list[Routed]]) -> torch.Tensor:
    """Returns `E sum_e f_e P_e`, the mean over layers: 1 when balanced, E when one expert has all.

    f_e: share of the choices that fell on e (no gradient); P_e: mean probability of e. 0 without a
    mixture layer.
    """
    terms = []
    for calls in routed:
        probabilities_TE = torch.cat([call.probabilities_TE for call in calls])
        experts = probabilities_TE.shape[1]
        chosen = torch.cat([call.chosen_TK for call in calls]).flatten()
        share_E = chosen.bincount(minlength=experts) / len(chosen)
        terms.append(experts * (share_E * probabilities_TE.mean(dim=0)).sum())
    return torch.stack(terms).mean() if terms else torch.zeros(())
