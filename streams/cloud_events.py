"""CloudEvents 1.0 attributes beside an action: Kafka protocol binding, binary mode.

The record's value stays our JSON; the attributes travel as `ce_*` headers, so that a tool that
knows CloudEvents can route and show actions without our schemas. They are copies and never trusted:
the body's `event_id` counts, and a `ce_id` that says otherwise is only counted (docs/producers.md).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from schemas.actions import EARLIEST_EVENT_MS, LATEST_EVENT_MS, UserAction, UserErased

Headers = Sequence[tuple[str, bytes | None]]

_FIXED = (("ce_specversion", b"1.0"), ("content-type", b"application/json"))


def cloud_event_headers(action: UserAction | UserErased, source: str) -> Headers:
    """Returns the attributes of an action that `source` (a URI reference) publishes.

    `ce_time` is left out where `event_time_ms` is no time of our era: the router refuses those.
    """
    kind = action.action.value if isinstance(action, UserAction) else "erased"
    headers: list[tuple[str, bytes | None]] = [
        *_FIXED,
        ("ce_id", action.event_id.encode()),
        ("ce_type", f"oxygenrec.user.{kind}".encode()),
        ("ce_source", source.encode()),
    ]
    if EARLIEST_EVENT_MS <= action.event_time_ms <= LATEST_EVENT_MS:
        headers.append(("ce_time", rfc3339(action.event_time_ms).encode()))
    return headers


def rfc3339(time_ms: int) -> str:
    """Returns milliseconds since 1970 as CloudEvents writes a time: `2026-01-01T00:00:00.000Z`."""
    seconds, milliseconds = divmod(time_ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{milliseconds:03}Z"


def contradicts(headers: Headers, event_id: str) -> bool:
    """Returns whether a `ce_id` header names another event than the body does."""
    return any(name == "ce_id" and value != event_id.encode() for name, value in headers)
