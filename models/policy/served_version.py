"""What the trainer needs from a published version: its index, and scoring under that index."""

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import nn

from models.policy.groups import Group, Sid
from schemas.errors import OxygenRecError
from schemas.impressions import Impression


class ServedVersion(Protocol):
    """A published version at hand."""

    @property
    def weights(self) -> nn.Module:
        """The generator that served."""
        ...

    def sid_of(self, item_key: int) -> Sid | None:
        """Returns the item's SID in this version's index, or None when it is younger."""
        ...

    def logprobs(
        self, weights: nn.Module, impressions: Sequence[Impression], sids_BGL: torch.Tensor
    ) -> torch.Tensor:
        """Returns the members' `legal` log-probs under `weights` and this index, [B, G, L].

        Differentiable. Raises UnknownSemanticId for a SID that this index does not hold.
        """
        ...


class Versions(Protocol):
    """Finds published versions by number."""

    def __call__(self, policy_version: int, /) -> ServedVersion | None:
        """Returns the version, or None when its directory is gone."""
        ...


def score_groups(
    weights: nn.Module, versions: Versions, groups: Sequence[Group], sids_BGL: torch.Tensor
) -> torch.Tensor:
    """Returns [B, G, L] log-probs of the members, each group under the index that served it.

    `groups` are sorted by policy version, each of which is at hand: one forward a version.
    """
    scored = []
    start = 0
    for number, run in groupby(groups, key=lambda group: group.impression.policy_version):
        impressions = [group.impression for group in run]
        version = versions(number)
        if version is None:
            raise VersionGone(policy_version=number)
        stop = start + len(impressions)
        scored.append(version.logprobs(weights, impressions, sids_BGL[start:stop]))
        start = stop
    return torch.cat(scored)


class VersionGone(OxygenRecError):
    """The directory of a version that is still needed is not there."""

    def __init__(self, *, policy_version: int) -> None:
        self.policy_version = policy_version
        super().__init__(
            f"policy version {policy_version}: found no directory although it serves or its groups"
            " wait for a step: restore it; a restarted trainer drops such groups"
        )
