"""A dead letter holds the original bytes, and no poison is too large to be buried."""

from prometheus_client import REGISTRY

from schemas.codec import encode
from schemas.dead_letters import Reason, Rejection
from streams.dead_letters import MAX_VALUE_BYTES, Source, count_letter, dead_letter, failure

WHY = Rejection(reason=Reason.MALFORMED_JSON, field="$", found="x", wanted="one JSON object")


def source(value: bytes | None) -> Source:
    return Source(topic="actions", partition=1, offset=2, key=b"\xff", value=value)


def test_it_holds_key_and_value_byte_for_byte_and_the_place() -> None:
    letter = dead_letter(source(b"\x00\xff{"), WHY, worker="router", now_ms=5)
    assert (letter.key, letter.value) == (b"\xff", b"\x00\xff{")
    assert (letter.topic, letter.partition, letter.offset) == ("actions", 1, 2)


def test_the_largest_record_kafka_takes_still_fits_into_a_dead_letter() -> None:
    letter = dead_letter(source(b"\xff" * 1_000_000), WHY, worker="router", now_ms=5)
    assert len(letter.value) == MAX_VALUE_BYTES
    assert len(encode(letter)) < 1_000_000


def test_a_tombstone_where_none_is_wanted_is_an_empty_value() -> None:
    assert dead_letter(source(None), WHY, worker="router", now_ms=5).value == b""


def test_a_failure_names_the_error_and_a_source_its_place() -> None:
    assert "KeyError" in failure(KeyError("x")).found
    assert str(source(b"")) == "actions[1]@2"


def test_letters_are_counted_by_worker_source_topic_and_reason() -> None:
    labels = {"worker": "counting", "topic": "actions", "reason": "malformed_json"}
    count_letter(source(b""), WHY, worker="counting")
    assert REGISTRY.get_sample_value("oxygenrec_dead_letters_total", labels) == 1
