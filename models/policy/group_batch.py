"""Pads the groups of one step into tensors.

Shapes: B groups, G members (the largest group), L codes. Padding repeats a group's first SID, so
that its log-probs are finite; `mask` says what counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.policy.advantages import gated_advantages, group_advantages
from models.policy.groups import Group, Member, Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBatch:
    """The members of B groups; old log-probs are NaN for experts; `liked`: observed with Y > 0."""

    sids_BGL: torch.Tensor
    mask_BG: torch.Tensor
    rewards_BG: torch.Tensor
    targets_B: torch.Tensor
    old_logprobs_BGL: torch.Tensor
    liked_BG: torch.Tensor

    @property
    def advantages_BG(self) -> torch.Tensor:
        """A of every member (OxygenREC eq. 9)."""
        return group_advantages(self.rewards_BG, self.mask_BG)

    @property
    def gated_BG(self) -> torch.Tensor:
        """Gamma(A) of every member (eq. 8)."""
        return gated_advantages(self.advantages_BG, self.rewards_BG, self.targets_B)

    def old_logprobs_or(self, start_BGL: torch.Tensor) -> torch.Tensor:
        """Returns the logged log-probs, for experts those of the weights at the step's start."""
        start_BGL = start_BGL.detach()
        return torch.where(self.old_logprobs_BGL.isnan(), start_BGL, self.old_logprobs_BGL)


def pad_groups(groups: Sequence[Group]) -> GroupBatch:
    """Returns the groups as tensors, in their order. Every group has at least one member."""
    width = max(len(group.members) for group in groups)
    rows = [
        [*group.members, *[group.members[0]] * (width - len(group.members))] for group in groups
    ]
    sizes_B = torch.tensor([len(group.members) for group in groups])
    mask_BG = torch.arange(width).unsqueeze(0) < sizes_B.unsqueeze(1)
    targets = [math.nan if g.target_reward is None else g.target_reward for g in groups]
    liked = [[m.origin is Origin.OBSERVED and m.reward > 0 for m in row] for row in rows]
    return GroupBatch(
        sids_BGL=torch.tensor([[member.sid for member in row] for row in rows]),
        mask_BG=mask_BG,
        rewards_BG=torch.tensor([[member.reward for member in row] for row in rows]),
        targets_B=torch.tensor(targets),
        old_logprobs_BGL=torch.tensor([[_old(member) for member in row] for row in rows]),
        liked_BG=torch.tensor(liked) & mask_BG,
    )


def _old(member: Member) -> tuple[float, ...]:
    return member.old_logprobs or (math.nan,) * len(member.sid)
