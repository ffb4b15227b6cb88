"""Joins one impression with what its user did inside the attribution window. Pure.

Direct: the action carries the request id. Inferred: it carries none, and user and item match after
the slate was served. Outcomes are maxima, so that a repeated action changes nothing.
"""

from collections.abc import Sequence

from agents.attribution import Mode
from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of
from schemas.impressions import Impression
from schemas.rewards import OUTCOMES, ItemOutcome, RewardEvent

# Nothing else is kept in memory: a search or a share tells nothing about an item of the slate.
JOINED = frozenset({ActionType.EXPOSE, *OUTCOMES})


def join(
    impression: Impression,
    actions: Sequence[UserAction],
    joined_until_ms: int,
    mode: Mode = "inferred",
) -> RewardEvent:
    """Returns the reward event of one request; `actions` are its user's in the window.

    With mode `direct` only actions with its request id count.

    `examined`: the positions with an `expose` of this request, or that were acted on through it;
    without any expose: up to the last clicked position + 1; without a click either: None.
    """
    positions = {item.item_key: item.position for item in impression.slate}
    outcomes: dict[int, ItemOutcome] = {}
    outside: dict[int, ItemOutcome] = {}
    exposed: set[int] = set()
    for action in actions:
        if action.item_id is None:
            continue
        key = item_key_of(action.item_id)
        direct = action.request_id == impression.request_id
        if mode == "direct" and not direct:
            continue
        if action.action is ActionType.EXPOSE:
            if direct and key in positions:
                exposed.add(positions[key])
        elif key in positions:
            if direct or _inferred(action, impression):
                _raise(outcomes, key, action, inferred=not direct)
        elif direct or _after(action, impression):
            _raise(outside, key, action, inferred=not direct)
    return RewardEvent(
        request_id=impression.request_id,
        impression=impression,
        outcomes=sorted(outcomes.values(), key=lambda one: positions[one.item_key]),
        outside=[one for one in outside.values() if one.outcome > 0],
        examined=_examined(exposed, outcomes, positions),
        joined_until_ms=joined_until_ms,
    )


def _inferred(action: UserAction, impression: Impression) -> bool:
    return action.request_id is None and _after(action, impression)


def _after(action: UserAction, impression: Impression) -> bool:
    """Only what came after the slate can have come of it; a request id proves it without clocks."""
    return action.event_time_ms >= impression.served_ms


def _raise(
    outcomes: dict[int, ItemOutcome], key: int, action: UserAction, *, inferred: bool
) -> None:
    """Keeps the largest outcome of an item; at equal outcomes a direct join before an inferred."""
    outcome = OUTCOMES.get(action.action)
    if outcome is None or action.item_id is None:
        return
    current = outcomes.get(key)
    if current is not None and (current.outcome, not current.inferred) >= (outcome, not inferred):
        return
    outcomes[key] = ItemOutcome(
        item_key=key,
        item_id=action.item_id,
        outcome=outcome,
        action=action.action,
        inferred=inferred,
    )


def _examined(
    exposed: set[int], outcomes: dict[int, ItemOutcome], positions: dict[int, int]
) -> list[int] | None:
    acted = {positions[key] for key, one in outcomes.items() if not one.inferred}
    if exposed:
        return sorted(exposed | acted)
    clicked = [positions[key] for key, one in outcomes.items() if one.outcome > 0]
    if not clicked:
        return None
    last = max(clicked) + 1
    return sorted(position for position in positions.values() if position <= last)
