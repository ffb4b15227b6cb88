"""The log that all systems read, and the offline recount of its windows. Pure.

Event time is out of order by less than the grace, so that nothing is late and there is one right
answer. Behind it stands one action a partition from an hour later: it closes all that is open.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.peers.job import HIGH_VALUE, window_start_ms
from schemas.actions import ActionType, UserAction
from schemas.codec import encode
from streams.partitioner import partition_of

USERS, ITEMS = 50_000, 10_000
HIGH_VALUE_EVERY = 25  # 4 %
STEP_MS = 2  # 500 actions a second of event time
OUT_OF_ORDER, DISORDER_MS = 0.1, 5_000  # a tenth of the actions is up to so much older
HOUR_MS = 3_600_000

Window = tuple[str, int]  # user id, start in ms


@dataclass(frozen=True, slots=True)
class Log:
    """Keys and values in order, the windows that must come out, and how many users acted."""

    records: list[tuple[bytes, bytes]]
    windows: Mapping[Window, tuple[str, ...]]
    users: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Triggers against the recount."""

    wanted: int
    right: int
    missing: int
    different: int  # of another content than the recount's, or two that differ
    surplus: int  # windows that the recount does not know
    repeated: int  # the same again


class Told(msgspec.Struct, frozen=True):
    """What a trigger says, in the words of all peers."""

    user_id: str
    window_start_ms: int
    actions: list[dict[str, Any]]


def log_of(count: int, partitions: int, now_ms: int) -> Log:
    """Returns a log of `count` actions that ended an hour before `now_ms`, and its end marks."""
    rng = random.Random(0)
    begin_ms = now_ms - 2 * HOUR_MS - count * STEP_MS
    actions = [_action(rng, number, begin_ms + number * STEP_MS) for number in range(count)]
    marks = [_end(user, begin_ms + count * STEP_MS + HOUR_MS) for user in one_user_each(partitions)]
    records = [(action.user_id.encode(), encode(action)) for action in (*actions, *marks)]
    return Log(records, recount(actions), len({key for key, _ in records}))


def recount(actions: Iterable[UserAction]) -> dict[Window, tuple[str, ...]]:
    """Returns the high-value events of each window, in the order of their time."""
    found: dict[Window, list[tuple[int, str]]] = {}
    for action in actions:
        if action.action in HIGH_VALUE:
            window = action.user_id, window_start_ms(action.event_time_ms)
            found.setdefault(window, []).append((action.event_time_ms, action.event_id))
    return {window: tuple(event for _, event in sorted(inside)) for window, inside in found.items()}


def compared(
    wanted: Mapping[Window, tuple[str, ...]], triggers: Iterable[Told], *, ends: Iterable[str]
) -> Comparison:
    """Returns how triggers differ from the recount; windows of the users `ends` do not count."""
    ignored = set(ends)
    found: dict[Window, set[tuple[str, ...]]] = {}
    repeated = 0
    for told in triggers:
        if told.user_id in ignored:
            continue
        actions = sorted((action["event_time_ms"], action["event_id"]) for action in told.actions)
        content = tuple(event for _, event in actions)
        contents = found.setdefault((told.user_id, told.window_start_ms), set())
        repeated += content in contents
        contents.add(content)
    right = sum(found.get(window) == {content} for window, content in wanted.items())
    missing = len(wanted.keys() - found.keys())
    return Comparison(
        wanted=len(wanted),
        right=right,
        missing=missing,
        different=len(wanted) - right - missing,
        surplus=len(found.keys() - wanted.keys()),
        repeated=repeated,
    )


def one_user_each(partitions: int) -> list[str]:
    """Returns a user id for each partition, in order."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < partitions:
        user = f"end-{number}"
        found.setdefault(partition_of(user.encode(), partitions), user)
        number += 1
    return [found[partition] for partition in range(partitions)]


def _action(rng: random.Random, number: int, at_ms: int) -> UserAction:
    late_ms = rng.randrange(DISORDER_MS) if rng.random() < OUT_OF_ORDER else 0
    return UserAction(
        event_id=f"event-{number:09d}",
        user_id=f"user-{rng.randrange(USERS):05d}",
        action=ActionType.CLICK if number % HIGH_VALUE_EVERY else ActionType.CART,
        item_id=f"item-{rng.randrange(ITEMS):05d}",
        event_time_ms=at_ms - late_ms,
    )


def _end(user: str, at_ms: int) -> UserAction:
    return UserAction(
        event_id=f"end-of-{user}",
        user_id=user,
        action=ActionType.CART,
        item_id="item-00000",
        event_time_ms=at_ms,
    )
