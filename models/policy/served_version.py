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
    """Finds published versions by number and by how far their index had read the catalogue."""

    def __call__(self, policy_version: int, index_offset: int, /) -> ServedVersion | None:
        """Returns the version, or None when it is not at hand; the same structure is the same
        object.
        """
        ...


def version_of(versions: Versions, group: Group) -> ServedVersion:
    """Returns the version that served a group, as it was then. Raises VersionGone."""
    impression = group.impression
    version = versions(impression.policy_version, impression.index_offset)
    if version is None:
        raise VersionGone(policy_version=impression.policy_version)
    return version


def score_groups(
    weights: nn.Module, versions: Versions, groups: Sequence[Group], sids_BGL: torch.Tensor
) -> torch.Tensor:
    """Returns [B, G, L] log-probs of the members, each group under the index that served it.

    `groups` are sorted by policy version and index offset, each of which is at hand: one forward a
    structure.
    """
    scored = []
    start = 0
    served = [version_of(versions, group) for group in groups]
    for _, run in groupby(enumerate(served), key=lambda place: id(place[1])):
        places = [place for place, _ in run]
        impressions = [groups[place].impression for place in places]
        stop = start + len(impressions)
        scored.append(served[start].logprobs(weights, impressions, sids_BGL[start:stop]))
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
