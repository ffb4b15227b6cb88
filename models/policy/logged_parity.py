"""Whether the log-probs that were logged are those of the version that served (ALGORITHMS 5)."""

from collections.abc import Sequence

import torch

from models.decoding.item_index import UnknownSemanticId
from models.policy.group_batch import pad_groups
from models.policy.groups import Group
from models.policy.served_version import ServedVersion, Versions, version_of


def logged_mismatches(groups: Sequence[Group], versions: Versions) -> list[float | None]:
    """Returns max |recomputed - logged| over each group's observed members, 0 without any.

    None where the version's index does not hold a logged SID. One forward a version: group by
    group this took more than half of the trainer's time. Raises VersionGone.
    """
    found: list[float | None] = [None] * len(groups)
    by_version: dict[int, tuple[ServedVersion, list[int]]] = {}
    for place, group in enumerate(groups):
        version = version_of(versions, group)
        by_version.setdefault(id(version), (version, []))[1].append(place)
    for version, places in by_version.values():
        served = _under(version, [groups[place] for place in places])
        for place, mismatch in zip(places, served, strict=True):
            found[place] = mismatch
    return found


def _under(version: ServedVersion, groups: Sequence[Group]) -> list[float | None]:
    batch = pad_groups(groups)
    impressions = [group.impression for group in groups]
    try:
        with torch.no_grad():
            recomputed_BGL = version.logprobs(version.weights, impressions, batch.sids_BGL)
    except UnknownSemanticId:
        if len(groups) == 1:
            return [None]
        return [mismatch for group in groups for mismatch in _under(version, [group])]
    # Experts have no logged log-probs (NaN); padding repeats a member, which changes no maximum.
    apart_BGL = (recomputed_BGL - batch.old_logprobs_BGL).abs().nan_to_num(0.0)
    return [float(mismatch) for mismatch in apart_BGL.flatten(1).amax(dim=1)]
