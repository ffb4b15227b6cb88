"""SA-GCPO against a loop over tokens, and its gradient against the formula of the paper."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.policy.advantages import gated_advantages, group_advantages
from models.policy.config import PolicyConfig
from models.policy.sa_gcpo import kl_penalty, objective, soft_gate, step_loss

CONFIG = PolicyConfig(kl_weight=0.3, observed_ce_weight=0.2)


@dataclass
class Case:
    """Random log-probs and rewards of 3 groups with up to 5 members of 3 codes."""

    new: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor
    rewards: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    liked: torch.Tensor

    @property
    def advantages(self) -> torch.Tensor:
        return group_advantages(self.rewards, self.mask)

    @property
    def gated(self) -> torch.Tensor:
        return gated_advantages(self.advantages, self.rewards, self.targets)


def case(seed: int) -> Case:
    random = torch.Generator().manual_seed(seed)
    new, old, reference = (
        -3 * torch.rand(3, 5, 3, generator=random, dtype=torch.float64) for _ in range(3)
    )
    outcomes = torch.tensor([-0.5, 0.0, 0.0, 0.4, 1.0], dtype=torch.float64)
    rewards = outcomes[torch.randint(5, (3, 5), generator=random)]
    sizes = torch.randint(1, 6, (3, 1), generator=random)
    mask = torch.arange(5).unsqueeze(0) < sizes
    best = rewards.masked_fill(~mask, -1.0).amax(dim=1)
    targets = torch.where(best > 0, best, torch.nan)
    return Case(new, old, reference, rewards, mask, targets, (rewards > 0) & mask)


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def reference_objective(c: Case, row: int) -> float:
    members = [g for g in range(5) if c.mask[row, g]]
    total = 0.0
    for g in members:
        advantage, gated = c.advantages[row, g].item(), c.gated[row, g].item()
        tau = CONFIG.tau_pos if advantage > 0 else CONFIG.tau_neg
        tokens = 0.0
        for t in range(3):
            ratio = math.exp(c.new[row, g, t].item() - c.old[row, g, t].item())
            tokens += sigmoid(tau * (ratio - 1)) * 4 / tau * gated
        total += tokens / 3
    return total / len(members)


def reference_penalties(c: Case, row: int) -> tuple[float, float]:
    kl, ce, liked, members = 0.0, 0.0, 0, 0
    for g in range(5):
        if not c.mask[row, g]:
            continue
        members += 1
        differences = [(c.reference[row, g, t] - c.new[row, g, t]).item() for t in range(3)]
        kl += sum(math.exp(d) - d - 1 for d in differences) / 3
        if c.rewards[row, g] > 0:
            liked += 1
            ce += -sum(c.new[row, g, t].item() for t in range(3)) / 3
    return kl / members, ce / max(liked, 1)


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_loss_equals_the_loop_over_tokens(seed: int) -> None:
    c = case(seed)
    terms = step_loss(
        logprobs_BGL=c.new,
        old_logprobs_BGL=c.old,
        reference_BGL=c.reference,
        advantages_BG=c.advantages,
        gated_BG=c.gated,
        mask_BG=c.mask,
        liked_BG=c.liked,
        config=CONFIG,
    )
    j = sum(reference_objective(c, row) for row in range(3)) / 3
    kl, ce = (sum(p) / 3 for p in zip(*(reference_penalties(c, r) for r in range(3)), strict=True))
    assert terms.objective.item() == pytest.approx(j, abs=1e-9)
    assert terms.kl.item() == pytest.approx(kl)
    assert terms.observed_ce.item() == pytest.approx(ce)
    assert terms.loss.item() == pytest.approx(-j + 0.3 * kl + 0.2 * ce)


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_gradient_factor_is_weight_times_ratio_times_gated_advantage(seed: int) -> None:
    c = case(seed)
    c.new.requires_grad_(True)
    objective(c.new, c.old, c.advantages, c.gated, c.mask, CONFIG).sum().backward()
    gradient = c.new.grad
    assert gradient is not None
    ratio = (c.new.detach() - c.old).exp()
    tau = torch.where(c.advantages > 0, CONFIG.tau_pos, CONFIG.tau_neg).unsqueeze(2)
    p = torch.sigmoid(tau * (ratio - 1))
    factor = 4 * p * (1 - p) * ratio * c.gated.unsqueeze(2)
    per_token = factor / 3 / c.mask.sum(dim=1).view(-1, 1, 1)
    expected = per_token.masked_fill(~c.mask.unsqueeze(2), 0.0)
    torch.testing.assert_close(gradient, expected)


@given(st.floats(0.5, 4.0), st.floats(0.5, 4.0))
def test_the_gate_is_two_over_tau_at_ratio_one_with_slope_one(tau: float, other: float) -> None:
    ratio = torch.ones(2, dtype=torch.float64, requires_grad=True)
    gate = soft_gate(ratio, torch.tensor([tau, other], dtype=torch.float64))
    gate.sum().backward()
    assert gate.tolist() == pytest.approx([2 / tau, 2 / other])
    assert ratio.grad is not None
    assert ratio.grad.tolist() == pytest.approx([1.0, 1.0])


@given(st.floats(0.01, 10.0))
def test_a_negative_decays_at_least_as_fast_as_a_positive_away_from_ratio_one(
    distance: float,
) -> None:
    ratio = torch.tensor([1.0 + distance] * 2, dtype=torch.float64, requires_grad=True)
    taus = torch.tensor([CONFIG.tau_pos, CONFIG.tau_neg], dtype=torch.float64)
    soft_gate(ratio, taus).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad[1] <= ratio.grad[0]


def test_equal_rewards_move_nothing() -> None:
    c = case(3)
    c.rewards = torch.full_like(c.rewards, 0.4)
    c.new.requires_grad_(True)
    objective(c.new, c.old, c.advantages, c.gated, c.mask, CONFIG).sum().backward()
    assert c.new.grad is not None
    assert c.new.grad.abs().max() < 1e-6


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_kl_is_zero_at_the_reference_and_positive_beside_it(seed: int) -> None:
    c = case(seed)
    assert kl_penalty(c.new, c.new, c.mask).abs().max() == 0
    assert (kl_penalty(c.new, c.reference, c.mask) > 0).all()
