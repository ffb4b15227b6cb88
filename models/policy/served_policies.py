"""Published versions on disk as the trainer needs them; a logged group's objective under one.

A version directory holds the index that it began to serve with, and `IndexGrowth` the items that
came while it did: a logged request can be scored again under the structure that answered it, with
any weights: those that served it, the trainer's, or a later version's.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.generator.batch import collate
from models.generator.generator import Generator
from models.policy.config import PolicyConfig
from models.policy.group_batch import pad_groups
from models.policy.groups import DropReason, Sid, form_group
from models.policy.index_growth import IndexGrowth
from models.policy.sa_gcpo import objective
from models.policy.served_version import VersionGone
from models.serving.index_file import arrays_of
from models.serving.policy_directory import LoadedPolicy, load_version
from schemas.errors import OxygenRecError
from schemas.generation import GenerationRequest
from schemas.impressions import Impression
from schemas.rewards import RewardEvent

KEPT_GROWN = 8  # structures of recent requests
KEPT_VERSIONS = 3  # the parent, the newest, and one between: what is in flight was served by these


class UnusableGroup(OxygenRecError):
    """A reward event that makes no group, or one without variance."""

    def __init__(self, *, request_id: str, reason: str) -> None:
        self.request_id = request_id
        self.reason = reason
        super().__init__(f"request {request_id}: found {reason}, wanted a group with a gradient")


def request_of(impression: Impression) -> GenerationRequest:
    """Returns the call that made an impression, without exclusions: log-probs ignore them."""
    instruction = impression.instruction
    return GenerationRequest(
        scenario=impression.scenario,
        history=impression.history,
        beams=impression.beams,
        trigger_key=impression.trigger_key,
        instruction=None if instruction is None else instruction.vector,
    )


@dataclass(frozen=True, slots=True)
class ServedPolicy:
    """A loaded version directory as a `ServedVersion`."""

    loaded: LoadedPolicy

    @property
    def weights(self) -> Generator:
        """The generator that served."""
        return self.loaded.generator

    def sid_of(self, item_key: int) -> Sid | None:
        """Returns the item's SID in this version's index, or None when it is younger."""
        return self.loaded.index.sid_of(item_key)

    def logprobs(
        self, weights: torch.nn.Module, impressions: Sequence[Impression], sids_BGL: torch.Tensor
    ) -> torch.Tensor:
        """Returns the members' log-probs under this index, [B, G, L]. Raises UnknownSemanticId."""
        if not isinstance(weights, Generator):
            raise TypeError(f"a {type(weights).__name__} scores no semantic IDs")
        requests = [request_of(impression) for impression in impressions]
        batch = collate(requests, self.loaded.index, self.loaded.manifest.scenarios)
        return weights.sid_logprobs(batch, sids_BGL, self.loaded.index)


class VersionDirectories:
    """Finds versions by number below `model_repository/generator`; the last 3 stay loaded."""

    def __init__(self, repository: Path, growth: IndexGrowth | None = None) -> None:
        """Prepares; nothing is loaded yet. Without `growth` a version has its snapshot alone."""
        self.repository = repository
        self.growth = growth or IndexGrowth()
        self._loaded: OrderedDict[int, ServedPolicy] = OrderedDict()
        self._grown: OrderedDict[tuple[int, int], ServedPolicy] = OrderedDict()

    def __call__(
        self, policy_version: int, index_offset: int | None = None, /
    ) -> ServedPolicy | None:
        """Returns the version with the structure that its index had at `index_offset` (None: at its
        snapshot), or None when its directory is gone or the growth up to there is not known.

        The same structure is the same object.
        """
        if policy_version not in self._loaded:
            directory = self.repository / str(policy_version)
            if not directory.is_dir():
                return None
            self._loaded[policy_version] = ServedPolicy(load_version(directory))
            if len(self._loaded) > KEPT_VERSIONS:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(policy_version)
        served = self._loaded[policy_version]
        return served if index_offset is None else self._at(served, index_offset)

    def require(self, policy_version: int, index_offset: int | None = None) -> ServedPolicy:
        """Returns the version. Raises VersionGone, and what `load_version` raises."""
        served = self(policy_version, index_offset)
        if served is None:
            raise VersionGone(policy_version=policy_version)
        return served

    def _at(self, served: ServedPolicy, index_offset: int) -> ServedPolicy | None:
        manifest = served.loaded.manifest
        if not self.growth.reaches(manifest.index_offset, index_offset):
            return None
        fresh = [
            item
            for item in self.growth.between(
                manifest.index_offset, index_offset, manifest.generation
            )
            if served.sid_of(item.item_key) is None
        ]
        if not fresh:
            return served
        key = (manifest.policy_version, len(fresh))  # structures only ever grow
        if key not in self._grown:
            index = served.loaded.index.grown(**arrays_of(fresh, manifest.scenarios))
            self._grown[key] = ServedPolicy(replace(served.loaded, index=index))
            if len(self._grown) > KEPT_GROWN:
                self._grown.popitem(last=False)
        self._grown.move_to_end(key)
        return self._grown[key]


def recompute_objective(
    event: RewardEvent,
    version_dir: Path,
    config: PolicyConfig | None = None,
    growth: IndexGrowth | None = None,
) -> float:
    """Returns J of one logged group under the weights of `version_dir`.

    The version that served it stands in the same folder: index (with the `growth` since) and pi_old
    are its own, the logged log-probs and for experts its weights; under it every ratio is 1. Raises
    UnusableGroup.
    """
    config = config or PolicyConfig()
    directories = VersionDirectories(version_dir.parent, growth)
    shown_at = None if growth is None else event.impression.index_offset
    served = directories(event.impression.policy_version, shown_at)
    judged = directories(int(version_dir.name))
    if served is None or judged is None:
        raise UnusableGroup(request_id=event.request_id, reason=DropReason.UNKNOWN_VERSION)
    group = form_group(
        event,
        generation=served.loaded.manifest.generation,
        sid_of=served.sid_of,
        max_experts=config.max_experts,
    )
    if isinstance(group, DropReason) or not group.has_variance:
        reason = group if isinstance(group, DropReason) else DropReason.ZERO_VARIANCE
        raise UnusableGroup(request_id=event.request_id, reason=reason)
    batch = pad_groups([group])
    shown = [group.impression]
    with torch.no_grad():
        start_BGL = served.logprobs(served.weights, shown, batch.sids_BGL)
        new_BGL = served.logprobs(judged.weights, shown, batch.sids_BGL)
    old_BGL = batch.old_logprobs_or(start_BGL)
    gates = (batch.advantages_BG, batch.gated_BG, batch.mask_BG)
    return float(objective(new_BGL, old_BGL, *gates, config))
