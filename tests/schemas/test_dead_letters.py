"""The one rule by which the edge and the router refuse a well-formed action."""

import pytest

from schemas.actions import FUTURE_TOLERANCE_MS, ActionType, UserAction
from schemas.dead_letters import Reason, reject_action

NOW_MS = 1_767_225_600_000
SCENARIOS = frozenset({"home", "search"})


def action(**fields: object) -> UserAction:
    values = {
        "event_id": "e",
        "user_id": "u",
        "action": ActionType.CLICK,
        "item_id": "i",
        "event_time_ms": NOW_MS,
    } | fields
    return UserAction(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"event_time_ms": NOW_MS // 1_000}, Reason.ABSURD_TIME, "event_time_ms"),
        ({"event_time_ms": NOW_MS * 1_000}, Reason.ABSURD_TIME, "event_time_ms"),
        ({"event_time_ms": 10**30}, Reason.ABSURD_TIME, "event_time_ms"),
        ({"event_time_ms": NOW_MS + FUTURE_TOLERANCE_MS + 1}, Reason.FROM_FUTURE, "event_time_ms"),
        ({"scenario": "moon"}, Reason.UNKNOWN_SCENARIO, "scenario"),
        ({"item_id": None}, Reason.MISSING_FIELD, "item_id"),
        ({"action": ActionType.SEARCH, "query": None}, Reason.MISSING_FIELD, "query"),
        ({"action": ActionType.SEARCH, "query": ""}, Reason.MISSING_FIELD, "query"),
    ],
)
def test_an_unusable_action_is_refused_with_reason_and_field(
    fields: dict[str, object], reason: Reason, field: str
) -> None:
    rejection = reject_action(action(**fields), now_ms=NOW_MS, scenarios=SCENARIOS)
    assert rejection is not None
    assert (rejection.reason, rejection.field) == (reason, field)
    assert rejection.found
    assert rejection.wanted


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"event_time_ms": NOW_MS + FUTURE_TOLERANCE_MS},
        {"action": ActionType.SEARCH, "query": "umbrella", "item_id": None},
    ],
)
def test_a_usable_action_passes(fields: dict[str, object]) -> None:
    assert reject_action(action(**fields), now_ms=NOW_MS, scenarios=SCENARIOS) is None
