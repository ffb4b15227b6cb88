"""The codec names reason, field, found and wanted: held against msgspec's real messages."""

import json
from typing import Any

import msgspec
import pytest

from schemas import topics
from schemas.catalog import ItemUpsert
from schemas.codec import MAX_FOUND, MAX_RECORD_BYTES, RECORDS, Decoder
from schemas.dead_letters import Reason
from schemas.errors import InvalidRecord

GOOD = {
    "schema": "user_action/1",
    "event_id": "e-1",
    "user_id": "u-1",
    "action": "click",
    "event_time_ms": 1_767_225_600_000,
    "item_id": "i-1",
}
DECODER: Decoder[msgspec.Struct] = Decoder(RECORDS[topics.ACTIONS])


def action(**changes: Any) -> bytes:
    """A good action with fields changed; a field set to `...` is left out."""
    fields = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    return json.dumps(fields).encode()


def refused(value: bytes, topic: str = topics.ACTIONS) -> tuple[str, str, str, str]:
    with pytest.raises(InvalidRecord) as caught:
        Decoder[msgspec.Struct](RECORDS[topic]).decode(value)
    error = caught.value
    return error.reason, error.field, error.found, error.wanted


@pytest.mark.parametrize(
    ("value", "reason", "field", "found", "wanted"),
    [
        (b"", Reason.MALFORMED_JSON, "$", "Input data was truncated", "one JSON object"),
        (b'{"a" 1}', Reason.MALFORMED_JSON, "$", "expected ':' (byte 5)", "one JSON object"),
        (action(price=float("nan")), Reason.OUT_OF_RANGE, "price", "NaN", "a finite number"),
        (action(price=float("-inf")), Reason.OUT_OF_RANGE, "price", "-Infinity", "a finite number"),
        (action(price=-1), Reason.OUT_OF_RANGE, "price", "a value outside", "float >= 0.0"),
        (action(event_time_ms="1"), Reason.WRONG_TYPE, "event_time_ms", "str", "int"),
        (action(event_time_ms=1.5), Reason.WRONG_TYPE, "event_time_ms", "float", "int"),
        (action(user_id=None), Reason.WRONG_TYPE, "user_id", "null", "str"),
        (action(context={"city": 5}), Reason.WRONG_TYPE, "context.city", "int", "str | null"),
        (action(attributes={"a": 5}), Reason.WRONG_TYPE, "attributes[...]", "int", "str"),
        (b"[1]", Reason.WRONG_TYPE, "$", "array", "object"),
        (action(user_id=...), Reason.MISSING_FIELD, "user_id", "nothing", "a value"),
        (
            *(action(user_id=""), Reason.OUT_OF_RANGE, "user_id"),
            *("a value outside", "str of length >= 1"),
        ),
        (action(action="fly"), Reason.UNKNOWN_ACTION, "action", "fly", "a known value"),
        (action(action=3), Reason.WRONG_TYPE, "action", "int", "str"),
        (
            *(action(schema="user_action/9"), Reason.UNKNOWN_SCHEMA, "schema"),
            *("user_action/9", "a schema of this topic"),
        ),
        (action(schema=...), Reason.UNKNOWN_SCHEMA, "schema", "nothing", "a value"),
        (action(schema=1), Reason.UNKNOWN_SCHEMA, "schema", "no string", "a schema of this topic"),
    ],
)
def test_a_bad_action_is_refused_with_reason_field_found_and_wanted(
    value: bytes, reason: Reason, field: str, found: str, wanted: str
) -> None:
    assert refused(value) == (reason, field, found, wanted)


def test_bytes_that_are_not_utf8_are_malformed() -> None:
    reason, field, found, _ = refused(action().replace(b"e-1", b"\xff\xfe"))
    assert (reason, field) == (Reason.MALFORMED_JSON, "$")
    assert "utf-8" in found


def test_a_number_beyond_every_float_is_out_of_range() -> None:
    value = action(price=1).replace(b'"price": 1', b'"price": 1e999')
    assert refused(value)[:2] == (Reason.OUT_OF_RANGE, "price")


def test_an_oversized_record_is_refused_before_it_is_parsed() -> None:
    value = b"x" * (MAX_RECORD_BYTES + 1)
    reason, _, found, wanted = refused(value)
    assert reason == Reason.OVERSIZED
    assert found == f"{MAX_RECORD_BYTES + 1} bytes"
    assert str(MAX_RECORD_BYTES) in wanted


def test_what_was_found_is_cut_and_cannot_forge_a_path() -> None:
    forged = "x' - at `$.price`" + "y" * 1_000
    reason, field, found, _ = refused(action(action=forged))
    assert (reason, field) == (Reason.UNKNOWN_ACTION, "action")
    assert len(found) <= MAX_FOUND + 3


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    nested = b'{"schema":"user_action/1","unknown":' + b"[" * 100_000
    assert refused(nested)[0] == Reason.MALFORMED_JSON


def test_the_element_of_a_list_is_named() -> None:
    value = (
        b'{"schema":"sid_assignment/1","item_key":1,"item_id":"a","sid":[1,"x"],"generation":1,'
        b'"embedding":"","in_stock":true,"scenarios":null,"published_ms":1}'
    )
    assert refused(value, topics.SEMANTIC_IDS)[:2] == (Reason.WRONG_TYPE, "sid[1]")


def test_a_topic_of_one_record_needs_no_tag_but_refuses_a_wrong_one() -> None:
    # msgspec: only a union needs the tag to choose by; merchants may leave it out of `catalog`.
    decoder: Decoder[msgspec.Struct] = Decoder(RECORDS[topics.CATALOG])
    assert isinstance(decoder.decode(b'{"item_id":"a","title":"t"}'), ItemUpsert)
    reason, *_ = refused(b'{"schema":"user_action/1","item_id":"a","title":"t"}', topics.CATALOG)
    assert reason == Reason.UNKNOWN_SCHEMA
