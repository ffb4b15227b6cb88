"""What is sent in place of a dead letter: the same bytes, or mended ones, judged as at the edge."""

import json
from typing import Any

import pytest

from schemas import topics
from schemas.actions import UserAction
from schemas.catalog import ItemUpsert
from schemas.dead_letters import DeadLetter, Reason, Rejection
from schemas.errors import InvalidRecord
from streams.dead_letter_log import LetterFilter
from streams.dead_letter_replay import Mended, changed, mend

NOW_MS = 1_767_225_600_000
SCENARIOS = frozenset({"home"})
WHY = Rejection(reason=Reason.WRONG_TYPE, field="price", found="str", wanted="float | null")
ACTION: dict[str, Any] = {
    "schema": "user_action/1",
    "event_id": "e-1",
    "user_id": "u-1",
    "action": "click",
    "item_id": "i-1",
    "event_time_ms": NOW_MS,
}


def letter(value: bytes, topic: str = topics.ACTIONS, key: bytes | None = b"u-1") -> DeadLetter:
    return DeadLetter(
        rejection=WHY,
        topic=topic,
        partition=1,
        offset=2,
        key=key,
        value=value,
        worker="router",
        attempts=1,
        dead_ms=NOW_MS,
    )


def action(**changes: Any) -> bytes:
    return json.dumps(ACTION | changes).encode()


def mended(one: DeadLetter, **changes: Any) -> Mended | Rejection:
    return mend(one, changes, now_ms=NOW_MS, scenarios=SCENARIOS)


def sent(one: DeadLetter, **changes: Any) -> Mended:
    result = mended(one, **changes)
    assert isinstance(result, Mended), result
    return result


def refused(one: DeadLetter, **changes: Any) -> tuple[str, str]:
    result = mended(one, **changes)
    assert isinstance(result, Rejection), result
    assert result.found
    assert result.wanted
    return result.reason, result.field


def test_without_changes_the_bytes_are_the_original_ones() -> None:
    value = b' {"schema" : "user_action/1",' + action()[len(b'{"schema": "user_action/1",') :]
    result = sent(letter(value, key=b"\xff"))
    assert (result.topic, result.key, result.value) == (topics.ACTIONS, b"\xff", value)


def test_a_field_that_is_set_mends_the_record_and_leaves_the_rest() -> None:
    result = sent(letter(action(price="9.5", unknown=[1, "é"])), price=9.5)
    assert json.loads(result.value) == ACTION | {"price": 9.5, "unknown": [1, "é"]}
    assert isinstance(result.record, UserAction)
    assert result.key == b"u-1"


def test_a_field_inside_another_is_set_and_made_where_it_lacks() -> None:
    value = changed(action(), {"context.city": "Lima", "context.tz": "America/Lima"})
    assert json.loads(value)["context"] == {"city": "Lima", "tz": "America/Lima"}
    with pytest.raises(InvalidRecord, match="field item_id: found str, wanted an object"):
        changed(action(), {"item_id.x": 1})


def test_a_number_that_json_lacks_can_be_replaced_and_else_is_refused() -> None:
    value = action(price=float("nan"))
    assert b"NaN" in value
    assert sent(letter(value), price=1).value.endswith(b'"price": 1}')
    assert refused(letter(value), quantity=2) == (Reason.MALFORMED_JSON, "$")


@pytest.mark.parametrize("value", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_cannot_be_mended_by_a_field(value: bytes) -> None:
    reason, _ = refused(letter(value), price=1)
    assert reason in {Reason.MALFORMED_JSON, Reason.WRONG_TYPE}


def test_a_record_is_judged_as_its_reader_will() -> None:
    assert refused(letter(action(action="jump"))) == (Reason.UNKNOWN_ACTION, "action")
    assert refused(letter(action(scenario="moon"))) == (Reason.UNKNOWN_SCENARIO, "scenario")
    late = letter(action(event_time_ms=NOW_MS + 3_600_000))
    assert refused(late) == (Reason.FROM_FUTURE, "event_time_ms")
    assert isinstance(
        mend(late, {}, now_ms=NOW_MS + 3_600_000, scenarios=SCENARIOS), Mended
    )  # time heals


def test_the_key_is_the_records_own_where_there_was_none_or_where_it_is_set() -> None:
    assert sent(letter(action(), key=None)).key == b"u-1"
    assert sent(letter(action(user_id=5)), user_id="u-5").key == b"u-5"
    item = letter(b'{"item_id":"i","title":5}', topics.CATALOG, key=b"i")
    result = sent(item, title="a kettle")
    assert (result.key, isinstance(result.record, ItemUpsert)) == (b"i", True)


def test_a_topic_without_records_is_refused_by_name() -> None:
    assert refused(letter(b"{}", "nowhere")) == (Reason.UNKNOWN_SCHEMA, "topic")
    assert refused(letter(b"{}", topics.DEAD_LETTERS)) == (Reason.UNKNOWN_SCHEMA, "topic")


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (LetterFilter(), True),
        (LetterFilter(offsets=frozenset({7})), True),
        (LetterFilter(offsets=frozenset({8})), False),
        (LetterFilter(reasons=frozenset({Reason.WRONG_TYPE})), True),
        (LetterFilter(reasons=frozenset({Reason.FAILED})), False),
        (LetterFilter(topics=frozenset({topics.CATALOG})), False),
        (LetterFilter(since_ms=NOW_MS), True),
        (LetterFilter(since_ms=NOW_MS + 1), False),
        (LetterFilter(until_ms=NOW_MS + 1), True),
        (LetterFilter(until_ms=NOW_MS), False),
    ],
)
def test_a_filter_passes_what_all_its_parts_pass(wanted: LetterFilter, passes: bool) -> None:
    assert wanted.wants(7, NOW_MS, letter(action())) is passes
