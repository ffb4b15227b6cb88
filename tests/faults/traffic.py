"""Seeded traffic through the real producer and the edge, and a ledger of what was acknowledged.

Only what was acknowledged is promised to anybody: the ledger is the truth that a run is held to.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert
from schemas.codec import encode
from schemas.users import UserProfile
from streams.partitioner import partition_of
from streams.producer import Delivered, RecordProducer, UndeliveredRecords
from tests.agents.near_line import PARTITIONS
from tests.agents.test_reward_join import impression
from tests.faults.edge_client import EdgeClient

USERS = 60
ACTIONS_PER_SECOND = 120
TICK_S = 0.05
IMPRESSIONS_SHARE = 0.05  # of the actions: each brings an impression and a click on it
CHANGES_SHARE = 0.05  # of the actions: each brings a change of an item or of a profile
ITEMS = 20
KINDS = (ActionType.CLICK, ActionType.CLICK, ActionType.CART, ActionType.SEARCH)
HOUR_MS = 3_600_000
T = TypeVar("T")
FLUSH_MS = 60_000  # longer than the producer's own delivery timeout


def now_ms() -> int:
    """Returns the wall clock."""
    return time.time_ns() // 1_000_000


def number_of(text: str) -> int:
    """Returns the number of the change that a title or a city is of: its last word."""
    return int(text.rpartition(" ")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Shares of the actions that are posted to the edge, or arrive broken, twice, in the wrong
    partition or of one user.

    `skew_ms`: each user's clock is wrong by up to so much, in both directions.
    """

    posted: float = 0.1
    poison: float = 0.0
    duplicates: float = 0.0
    misrouted: float = 0.0
    hot_user: float = 0.0
    skew_ms: int = 0


@dataclass(slots=True)
class Ledger:
    """What was acknowledged; filled by the producer's delivery reports and the edge's 202.

    `impressions` and `clicks` hold append times (ms) by request id; `poison` the original bytes;
    `items` and `profiles` the number of the last change. `unsure` counts records without an
    acknowledgement: they may be in the log or not.
    """

    actions: dict[str, UserAction] = field(default_factory=dict)
    impressions: dict[str, int] = field(default_factory=dict)
    clicks: dict[str, int] = field(default_factory=dict)
    poison: set[bytes] = field(default_factory=set)
    poison_sent: set[bytes] = field(default_factory=set)
    items: dict[str, int] = field(default_factory=dict)
    profiles: dict[str, int] = field(default_factory=dict)
    posted: int = 0
    unsure: int = 0


class Traffic:
    """The traffic of one scenario: its users and event ids carry the scenario's name."""

    def __init__(
        self, producer: RecordProducer, edge: EdgeClient, name: str, mix: Mix, seed: int
    ) -> None:
        self.ledger = Ledger()
        self._producer = producer
        self._edge = edge
        self._posts: list[Future[None]] = []
        self._name = name
        self._mix = mix
        self._random = random.Random(f"{seed} {name}")
        self._number = 0
        self._lock = threading.Lock()

    def run(self, seconds: float) -> None:
        """Sends at an even pace, then returns when each record has its report."""
        for _ in range(round(seconds / TICK_S)):
            began = time.monotonic()
            for _ in range(round(ACTIONS_PER_SECOND * TICK_S)):
                self._send_one()
            time.sleep(max(0.0, TICK_S - (time.monotonic() - began)))
        with suppress(UndeliveredRecords):  # what has no report is not in the ledger
            self._producer.flush(FLUSH_MS)
        wait(self._posts)

    def probe(self, turn: int) -> list[str]:
        """Sends what each worker has something to do with, of a new user in each partition.

        A search through the edge, an impression and a click on it, an item, a profile. Returns the
        users.
        """
        users: dict[int, str] = {}
        number = 0
        while len(users) < PARTITIONS:
            user = f"{self._name}-probe-{turn}-{number}"
            users.setdefault(partition_of(user.encode(), PARTITIONS), user)
            number += 1
        for user in users.values():
            self._post(self._action(user, ActionType.SEARCH))
            self._send_impression(user, f"{user}-request")
            self._change_item(f"{user}-item")
            self._change_profile(user)
        return list(users.values())

    def _send_one(self) -> None:
        draw, mix = self._random, self._mix
        hot = draw.random() < mix.hot_user
        user = f"{self._name}-user-{0 if hot else draw.randrange(USERS)}"
        action = self._action(user, draw.choice(KINDS))
        if draw.random() < mix.poison:
            self._send_poison(action)
            return
        misrouted = draw.random() < mix.misrouted
        partition = draw.randrange(PARTITIONS) if misrouted else None
        if partition is None and draw.random() < mix.posted:
            self._post(action)
        else:
            for _ in range(2 if draw.random() < mix.duplicates else 1):
                self._send_action(action, partition)
        if draw.random() < IMPRESSIONS_SHARE:
            self._send_impression(user, f"{self._name}-request-{self._number}")
        if draw.random() < CHANGES_SHARE:
            self._change_item(f"{self._name}-item-{draw.randrange(ITEMS)}")
            self._change_profile(user)

    def _next(self) -> int:
        with self._lock:
            self._number += 1
            return self._number

    def _action(self, user: str, kind: ActionType) -> UserAction:
        number = self._next()
        wrong_ms = 0 if user.startswith(f"{self._name}-probe-") else self._mix.skew_ms
        skew = random.Random(user).randint(-wrong_ms, wrong_ms)  # a probe with it could be late
        return UserAction(
            event_id=f"{self._name}-event-{number}",
            user_id=user,
            action=kind,
            item_id=f"item-{number % 50}",
            query="umbrella" if kind is ActionType.SEARCH else None,
            event_time_ms=now_ms() + skew,
        )

    def _post(self, action: UserAction) -> None:
        def note(_: object) -> None:
            self._note(action)
            self.ledger.posted += 1

        posted = self._edge.post(action)
        self._posts.append(posted)
        self._when_acknowledged(posted, note)

    def _send_action(self, action: UserAction, partition: int | None = None) -> None:
        sent = self._producer.send(topics.ACTIONS, action, action.user_id, partition=partition)
        self._when_acknowledged(sent, lambda _: self._note(action))

    def _note(self, action: UserAction) -> None:
        self.ledger.actions[action.event_id] = action

    def _send_impression(self, user: str, request_id: str) -> None:
        ledger = self.ledger
        shown = impression(request_id, user)
        sent = self._producer.send(topics.IMPRESSIONS, shown, user)
        self._when_acknowledged(
            sent, lambda at: ledger.impressions.__setitem__(request_id, at.append_ms)
        )
        plain = self._action(user, ActionType.CLICK)
        click = msgspec.structs.replace(plain, item_id="b", request_id=request_id)

        def clicked(at: Delivered) -> None:
            self._note(click)
            ledger.clicks[request_id] = at.append_ms

        self._when_acknowledged(self._producer.send(topics.ACTIONS, click, user), clicked)

    def _change_item(self, item_id: str) -> None:
        number = self._next()
        item = ItemUpsert(item_id=item_id, title=f"Outdoor umbrella {number}", category="Outdoor")
        sent = self._producer.send(topics.CATALOG, item, item_id)
        self._when_acknowledged(sent, lambda _: self.ledger.items.__setitem__(item_id, number))

    def _change_profile(self, user: str) -> None:
        number = self._next()
        profile = UserProfile(user_id=user, city=f"City {number}", updated_ms=now_ms())
        sent = self._producer.send(topics.USERS, profile, user)
        self._when_acknowledged(sent, lambda _: self.ledger.profiles.__setitem__(user, number))

    def _send_poison(self, action: UserAction) -> None:
        """Sends one of five kinds of broken records; each one's bytes are unique."""
        change = msgspec.structs.replace
        value = self._random.choice(
            [
                encode(action)[:-1],
                encode(action).replace(b'"action":"', b'"action":"un'),
                encode(change(action, event_time_ms=action.event_time_ms + HOUR_MS)),
                encode(change(action, scenario="nowhere")),
                encode(change(action, item_id=None, query=None)),
            ]
        )
        self.ledger.poison_sent.add(value)
        sent = self._producer.send(topics.ACTIONS, value, action.user_id)
        self._when_acknowledged(sent, lambda _: self.ledger.poison.add(value))

    def _when_acknowledged(self, sent: Future[T], note: Callable[[T], object]) -> None:
        def report(done: Future[T]) -> None:
            if done.cancelled() or done.exception() is not None:
                self.ledger.unsure += 1
            else:
                note(done.result())

        sent.add_done_callback(report)
