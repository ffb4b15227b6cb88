"""Dead letters: the original bytes of what could not be used, a typed reason and their origin."""

from enum import StrEnum

from msgspec import Struct

from schemas.actions import (
    EARLIEST_EVENT_MS,
    FUTURE_TOLERANCE_MS,
    LATEST_EVENT_MS,
    ActionType,
    UserAction,
    UserErased,
)


class Reason(StrEnum):
    """Why a record is dead.

    Late actions are not dead: they reach history and training, and are counted.
    """

    MALFORMED_JSON = "malformed_json"
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_SCHEMA = "unknown_schema"
    UNKNOWN_ACTION = "unknown_action"
    UNKNOWN_SCENARIO = "unknown_scenario"
    UNKNOWN_ITEM = "unknown_item"
    ABSURD_TIME = "absurd_time"
    FROM_FUTURE = "from_future"
    KEY_COLLISION = "key_collision"
    OVERSIZED = "oversized"
    FAILED = "failed"


class Rejection(Struct, frozen=True, kw_only=True):
    """Why one record is refused.

    The reason, and field, found, wanted in words a producer can act on.
    """

    reason: Reason
    field: str
    found: str
    wanted: str


class DeadLetter(Struct, frozen=True, kw_only=True, tag_field="schema", tag="dead_letter/1"):
    """What was refused, byte for byte, so that it can be shown, mended and replayed."""

    rejection: Rejection
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    worker: str
    attempts: int
    dead_ms: int


class LetterReplayed(
    Struct, frozen=True, kw_only=True, tag_field="schema", tag="letter_replayed/1"
):
    """The letter at `letter_offset` of `dead-letters` was sent again, and acknowledged.

    It lies behind its letter in the same log, so that a letter is not replayed twice. `changes`:
    what was set in the record, as JSON by field.
    """

    letter_offset: int
    topic: str
    partition: int
    offset: int
    changes: dict[str, str]
    replayed_ms: int


DeadLetterRecord = DeadLetter | LetterReplayed


def reject_action(
    action: UserAction, *, now_ms: int, scenarios: frozenset[str]
) -> Rejection | None:
    """Returns why a well-formed action cannot be used, or None.

    The edge and the router share this one rule.
    """
    if not EARLIEST_EVENT_MS <= action.event_time_ms <= LATEST_EVENT_MS:
        wanted = "milliseconds since 1970 between the years 2000 and 2100"
        return _rejected(Reason.ABSURD_TIME, "event_time_ms", str(action.event_time_ms), wanted)
    if action.event_time_ms > now_ms + FUTURE_TOLERANCE_MS:
        wanted = f"at most {FUTURE_TOLERANCE_MS} ms after the receiver's clock ({now_ms})"
        return _rejected(Reason.FROM_FUTURE, "event_time_ms", str(action.event_time_ms), wanted)
    if action.scenario not in scenarios:
        wanted = "one of " + ", ".join(sorted(scenarios))
        return _rejected(Reason.UNKNOWN_SCENARIO, "scenario", action.scenario, wanted)
    if action.action is ActionType.SEARCH:
        if not action.query:
            return _rejected(Reason.MISSING_FIELD, "query", "nothing", "the words searched for")
    elif action.item_id is None:
        wanted = f"the item of the {action.action} action"
        return _rejected(Reason.MISSING_FIELD, "item_id", "nothing", wanted)
    return None


def reject_erasure(erased: UserErased) -> Rejection | None:
    """Returns why a well-formed erasure cannot be applied, or None."""
    if EARLIEST_EVENT_MS <= erased.event_time_ms <= LATEST_EVENT_MS:
        return None
    wanted = "milliseconds since 1970 between the years 2000 and 2100"
    return _rejected(Reason.ABSURD_TIME, "event_time_ms", str(erased.event_time_ms), wanted)


def _rejected(reason: Reason, field: str, found: str, wanted: str) -> Rejection:
    return Rejection(reason=reason, field=field, found=found, wanted=wanted)
