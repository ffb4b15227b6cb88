"""SA-GCPO (OxygenREC, section 3.4; soft gate of SAPO): a group's objective, a step's loss.

A slate is a beam's top k, not a sample: J is a ranking surrogate and the ratio a proximity gate,
not an importance correction. Since f(1) = 2 / tau, losses are never compared across tau.

Shapes: B groups, G members (padded), L codes of a semantic ID.
"""

from dataclasses import dataclass

import torch

from models.policy.config import PolicyConfig

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """The loss to minimise and its parts, means over the groups of the step (scalars)."""

    loss: torch.Tensor
    objective: torch.Tensor
    kl: torch.Tensor
    observed_ce: torch.Tensor


def soft_gate(ratio: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Returns f(r) = 4 / tau * sigmoid(tau (r - 1)); its slope is 4 p (1 - p), 1 at r = 1."""
    return torch.sigmoid(tau * (ratio - 1.0)) * 4.0 / tau


def objective(
    logprobs_BGL: torch.Tensor,
    old_logprobs_BGL: torch.Tensor,
    advantages_BG: torch.Tensor,
    gated_BG: torch.Tensor,
    mask_BG: torch.Tensor,
    config: PolicyConfig,
) -> torch.Tensor:
    """Returns J of every group, [B]: mean over members of the mean over codes of f(r) * Gamma(A).

    The factor on grad log pi is w * r * Gamma(A); members whose Gamma is 0 stay in the 1 / G.
    """
    positive_BG = torch.full_like(advantages_BG, config.tau_pos)
    negative_BG = torch.full_like(advantages_BG, config.tau_neg)
    tau_BG = torch.where(advantages_BG > 0, positive_BG, negative_BG)
    # Beyond exp(20) the factor w * r is 0 in float32 anyway, but 0 * inf would be NaN.
    difference_BGL = (logprobs_BGL - old_logprobs_BGL).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    gate_BGL = soft_gate(difference_BGL.exp(), tau_BG.unsqueeze(2))
    return member_mean(gate_BGL.mean(dim=2) * gated_BG, mask_BG)


def kl_penalty(
    logprobs_BGL: torch.Tensor, reference_BGL: torch.Tensor, mask_BG: torch.Tensor
) -> torch.Tensor:
    """Returns the k3 estimate of KL(pi || pi_ref) on the members' codes, [B].

    k3 = exp(d) - d - 1 with d = log pi_ref - log pi: never negative, 0 only where both agree. The
    members are no samples of pi, so it measures proximity on what was shown and chosen, not the
    divergence itself.
    """
    difference_BGL = (reference_BGL - logprobs_BGL).masked_fill(~mask_BG.unsqueeze(2), 0.0)
    return member_mean((difference_BGL.expm1() - difference_BGL).mean(dim=2), mask_BG)


def step_loss(
    *,
    logprobs_BGL: torch.Tensor,
    old_logprobs_BGL: torch.Tensor,
    reference_BGL: torch.Tensor,
    advantages_BG: torch.Tensor,
    gated_BG: torch.Tensor,
    mask_BG: torch.Tensor,
    liked_BG: torch.Tensor,
    config: PolicyConfig,
) -> LossTerms:
    """Returns -J + beta KL + weight * CE on the observed members with Y > 0 (`liked_BG`)."""
    j = objective(logprobs_BGL, old_logprobs_BGL, advantages_BG, gated_BG, mask_BG, config).mean()
    kl = kl_penalty(logprobs_BGL, reference_BGL, mask_BG).mean()
    ce = member_mean(-logprobs_BGL.mean(dim=2), liked_BG).mean()
    loss = -j + config.kl_weight * kl + config.observed_ce_weight * ce
    return LossTerms(loss=loss, objective=j, kl=kl, observed_ce=ce)


def member_mean(values_BG: torch.Tensor, mask_BG: torch.Tensor) -> torch.Tensor:
    """Returns the mean over the members in the mask, [B]; 0 for a group without any."""
    kept_BG = values_BG.masked_fill(~mask_BG, 0.0)
    return kept_BG.sum(dim=1) / mask_BG.sum(dim=1).clamp(min=1)
