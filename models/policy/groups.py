"""Turns one reward event into one group of distinct semantic IDs (ALGORITHMS 6). Pure, torch-free.

Members are *observed* (examined slate SIDs) and *experts* (SIDs chosen outside the slate).
An unexamined slate item is no member: counting it as 0 would teach the layout, not the taste.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from schemas.impressions import Impression, SlateItem
from schemas.rewards import ItemOutcome, RewardEvent

Sid = tuple[int, ...]
SidOf = Callable[[int], Sid | None]


class Origin(StrEnum):
    """How a member came into its group."""

    OBSERVED = "observed"
    EXPERT = "expert"


class DropReason(StrEnum):
    """Why a reward event does not become a used group; each is counted on its own."""

    DEGRADED = "degraded"  # popular items, no log-probs
    OTHER_GENERATION = "other_generation"  # its codes mean other items
    NO_EXAMINATION = "no_examination"  # nothing tells which items were seen
    UNKNOWN_VERSION = "unknown_version"  # its directory, or the growth of its index, is not at hand
    UNKNOWN_SID = "unknown_sid"  # a slate SID is not in the logged index
    ZERO_VARIANCE = "zero_variance"  # all rewards are equal: no gradient
    LOGPROB_MISMATCH = "logprob_mismatch"  # the trainer does not reproduce the served log-probs
    REPEATED = "repeated"  # the request was counted before


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One candidate and its outcome; `old_logprobs` are the logged ones, None for experts."""

    sid: Sid
    reward: float
    origin: Origin
    old_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The members of one request; `target_reward` is the largest reward if above 0, else None."""

    impression: Impression
    members: tuple[Member, ...]
    target_reward: float | None

    @property
    def has_variance(self) -> bool:
        """Whether the rewards differ; without that every advantage is 0."""
        return len({member.reward for member in self.members}) > 1


def form_group(
    event: RewardEvent, *, generation: int, sid_of: SidOf, max_experts: int
) -> Group | DropReason:
    """Returns the group of one request, or why there is none.

    `sid_of` finds an item's SID in the index that served the request; experts it does not know are
    younger than that index and are skipped.
    """
    impression = event.impression
    if impression.degraded is not None:
        return DropReason.DEGRADED
    if impression.generation != generation:
        return DropReason.OTHER_GENERATION
    if event.examined is None:
        return DropReason.NO_EXAMINATION
    chosen = _chosen_outside(event.outside, sid_of)
    observed = _observed(event, chosen)
    seen = {member.sid for member in observed}
    experts = [_expert(sid, reward) for sid, reward in chosen.items() if sid not in seen]
    experts.sort(key=lambda expert: -expert.reward)  # stable: equal outcomes keep the log's order
    members = (*observed, *experts[:max_experts])
    best = max((member.reward for member in members), default=0.0)
    return Group(impression=impression, members=members, target_reward=best if best > 0 else None)


def _chosen_outside(outside: list[ItemOutcome], sid_of: SidOf) -> dict[Sid, float]:
    chosen: dict[Sid, float] = {}
    for item in outside:
        sid = sid_of(item.item_key)
        if item.outcome > 0 and sid is not None:
            chosen[sid] = max(item.outcome, chosen.get(sid, item.outcome))
    return chosen


def _observed(event: RewardEvent, chosen: dict[Sid, float]) -> list[Member]:
    outcomes = {item.item_key: item.outcome for item in event.outcomes}
    examined = set(event.examined or ())
    by_sid: dict[Sid, list[SlateItem]] = {}
    for item in event.impression.slate:
        by_sid.setdefault(tuple(item.sid), []).append(item)
    members = []
    for sid, items in by_sid.items():
        seen = [item for item in items if item.position in examined or item.item_key in outcomes]
        if not any(item.position in examined for item in items):
            continue
        rewards = [outcomes.get(item.item_key, 0.0) for item in seen]
        rewards += [chosen[sid]] if sid in chosen else []
        members.append(
            Member(
                sid=sid,
                reward=max(rewards),
                origin=Origin.OBSERVED,
                old_logprobs=tuple(items[0].logprobs),
            )
        )
    return members


def _expert(sid: Sid, reward: float) -> Member:
    return Member(sid=sid, reward=reward, origin=Origin.EXPERT)
