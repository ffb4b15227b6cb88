"""Builds impressions and reward events, with defaults for what a test does not talk about."""

from collections.abc import Mapping, Sequence

from schemas.actions import ActionType
from schemas.impressions import HistoryFeatures, Impression, SlateItem, Slot
from schemas.rewards import OUTCOMES, ItemOutcome, RewardEvent

EMPTY_HISTORY = HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[])


def slate_item(
    item_key: int, sid: Sequence[int], position: int, logprobs: Sequence[float] | None = None
) -> SlateItem:
    """Returns one shown item, with log-prob -1 a code when none is given."""
    return SlateItem(
        item_key=item_key,
        item_id=f"item-{item_key}",
        sid=list(sid),
        logprobs=list(logprobs) if logprobs is not None else [-1.0] * len(sid),
        score=-float(position),
        position=position,
        slot=Slot.TOP,
    )


def impression(
    slate: Sequence[SlateItem],
    *,
    request_id: str = "request-0",
    generation: int = 1,
    policy_version: int = 1,
    index_offset: int = 0,
    history: HistoryFeatures = EMPTY_HISTORY,
    degraded: str | None = None,
) -> Impression:
    """Returns an answered request of one user."""
    return Impression(
        request_id=request_id,
        user_id="user-0",
        scenario="home",
        served_ms=1_700_000_000_000,
        generation=generation,
        policy_version=policy_version,
        index_offset=index_offset,
        history=history,
        slate=list(slate),
        beams=20,
        degraded=degraded,
    )


def outcomes(actions: Mapping[int, ActionType]) -> list[ItemOutcome]:
    """Returns item key -> action as outcomes with their values."""
    return [
        ItemOutcome(
            item_key=key,
            item_id=f"item-{key}",
            outcome=OUTCOMES[action],
            action=action,
            inferred=False,
        )
        for key, action in actions.items()
    ]


def reward_event(
    shown: Impression,
    *,
    chosen: Mapping[int, ActionType] | None = None,
    outside: Mapping[int, ActionType] | None = None,
    examined: Sequence[int] | None = (),
) -> RewardEvent:
    """Returns what became of an impression."""
    return RewardEvent(
        request_id=shown.request_id,
        impression=shown,
        outcomes=outcomes(chosen or {}),
        outside=outcomes(outside or {}),
        examined=None if examined is None else list(examined),
        joined_until_ms=shown.served_ms + 1_800_000,
    )
