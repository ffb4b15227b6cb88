"""CloudEvents attributes as the Kafka binding wants them: copies of the body, never trusted."""

from datetime import UTC, datetime

import pytest

from schemas.actions import ActionType, UserAction, UserErased
from streams.cloud_events import cloud_event_headers, contradicts, rfc3339


def action(event_time_ms: int = 1_767_225_600_005) -> UserAction:
    return UserAction(
        event_id="e-é",
        user_id="u",
        action=ActionType.CLICK,
        item_id="i",
        event_time_ms=event_time_ms,
    )


def test_every_required_attribute_is_a_utf8_header_and_the_value_is_declared_as_json() -> None:
    assert dict(cloud_event_headers(action(), "/shop")) == {
        "ce_specversion": b"1.0",
        "ce_id": "e-é".encode(),
        "ce_type": b"oxygenrec.user.click",
        "ce_source": b"/shop",
        "ce_time": b"2026-01-01T00:00:00.005Z",
        "content-type": b"application/json",
    }


def test_an_erasure_has_a_type_of_its_own() -> None:
    erased = UserErased(event_id="e", user_id="u", event_time_ms=1_767_225_600_000)
    assert dict(cloud_event_headers(erased, "/shop"))["ce_type"] == b"oxygenrec.user.erased"


@pytest.mark.parametrize("event_time_ms", [0, -5, 10**30])
def test_a_time_of_no_era_is_left_out_instead_of_failing_the_producer(event_time_ms: int) -> None:
    assert "ce_time" not in dict(cloud_event_headers(action(event_time_ms), "/shop"))


def test_a_time_keeps_its_milliseconds() -> None:
    for time_ms in (1_767_225_600_000, 1_767_225_600_999, 951_782_400_001):
        assert datetime.fromisoformat(rfc3339(time_ms)) == datetime.fromtimestamp(
            time_ms / 1_000, UTC
        )


def test_only_another_id_contradicts_the_body() -> None:
    assert not contradicts((), "e")
    assert not contradicts([("ce_type", b"com.example.other"), ("ce_id", b"e")], "e")
    assert contradicts([("ce_id", b"f")], "e")
    assert contradicts([("ce_id", None)], "e")
