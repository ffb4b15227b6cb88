"""Advantages against a plain loop, and the worked example of CQ-SID."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.policy.advantages import gated_advantages, group_advantages

rewards = st.lists(
    st.lists(st.sampled_from([-0.5, 0.0, 0.4, 0.6, 0.7, 1.0]), min_size=1, max_size=14),
    min_size=1,
    max_size=4,
)


def padded(groups: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(group) for group in groups)
    values = torch.full((len(groups), width), 7.0, dtype=torch.float64)  # padding must not matter
    mask = torch.zeros(len(groups), width, dtype=torch.bool)
    for row, group in enumerate(groups):
        values[row, : len(group)] = torch.tensor(group, dtype=torch.float64)
        mask[row, : len(group)] = True
    return values, mask


def reference_advantages(group: list[float]) -> list[float]:
    mean, std = statistics.fmean(group), statistics.pstdev(group)
    return [(reward - mean) / (std + 1e-6) for reward in group]


@given(rewards)
def test_advantages_equal_the_loop_over_members(groups: list[list[float]]) -> None:
    values, mask = padded(groups)
    advantages = group_advantages(values, mask)
    for row, group in enumerate(groups):
        expected = reference_advantages(group)
        assert advantages[row, : len(group)].tolist() == pytest.approx(expected, abs=1e-6)
        assert not advantages[row, len(group) :].any()


@given(rewards)
def test_a_group_of_equal_rewards_has_no_advantage(groups: list[list[float]]) -> None:
    values, mask = padded([[group[0]] * len(group) for group in groups])
    assert group_advantages(values, mask).abs().max() < 1e-6


@given(rewards)
def test_only_good_members_below_the_target_are_gated(groups: list[list[float]]) -> None:
    values, mask = padded(groups)
    targets = [max(group) if max(group) > 0 else math.nan for group in groups]
    advantages = group_advantages(values, mask)
    gated = gated_advantages(advantages, values, torch.tensor(targets, dtype=torch.float64))
    for row, group in enumerate(groups):
        for column, reward in enumerate(group):
            advantage = advantages[row, column].item()
            blocked = advantage > 0 and reward < targets[row]
            assert gated[row, column].item() == (0.0 if blocked else advantage)


def test_two_clicked_experts_beside_eight_misses_weigh_two_against_minus_a_half() -> None:
    values, mask = padded([[0.1] * 8 + [1.0] * 2])
    advantages = group_advantages(values, mask)[0]
    assert advantages[-1].item() == pytest.approx(2.0, abs=1e-4)
    assert advantages[0].item() == pytest.approx(-0.5, abs=1e-4)
