"""A lane: what is sent in which order, what waits for what, and what ends the process."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest
from aiokafka.errors import KafkaError

from agents import window_lane
from agents.stream_progress import StreamProgress
from agents.window_lane import LaneResources, WindowLane
from schemas import topics
from schemas.actions import ActionType, HighValueRecord, UserAction, Watermark
from schemas.codec import encode
from streams import metrics
from streams.dead_letters import Source
from streams.lag import Lags
from streams.windows import PartitionWindows, WindowConfig

WINDOWS = WindowConfig(window_ms=100, grace_ms=30, stagger=False)


class Event:
    """What the lane needs of a Faust event: whether it was acknowledged."""

    acknowledged = False

    def ack(self) -> None:
        self.acknowledged = True


@dataclass
class Producer:
    """Kafka, as far as it is asked: acknowledges at once, or when the test says so."""

    held: set[str] = field(default_factory=set)  # topics whose acknowledgements wait
    sent: list[tuple[str, bytes | None, bytes | None]] = field(default_factory=list)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    async def send(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int | None
    ) -> asyncio.Future[None]:
        if self.failures:
            raise self.failures.pop()
        self.sent.append((topic, key, value))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if topic in self.held:
            self.waiting.append(future)
        else:
            future.set_result(None)
        return future

    def release(self) -> None:
        self.held.clear()
        for future in self.waiting:
            future.set_result(None)

    def topics(self) -> list[str]:
        return [topic for topic, _, _ in self.sent]


@dataclass
class World:
    """Lanes over one table, and the reasons for which they gave up."""

    producer: Producer = field(default_factory=Producer)
    table: dict[bytes, bytes] = field(default_factory=dict)
    crashed: list[BaseException] = field(default_factory=list)
    progress: StreamProgress = field(default_factory=lambda: StreamProgress(from_zero))

    def lane(self, partition: int = 0) -> WindowLane:
        async def give_up(error: BaseException) -> NoReturn:
            self.crashed.append(error)
            raise asyncio.CancelledError

        shared: Any = LaneResources(
            table=self.table,
            producer=self.producer,
            progress=self.progress,
            lags=Lags("lane-test", lambda topic, partition: None),
            give_up=give_up,
        )
        return WindowLane(PartitionWindows(partition, WINDOWS), shared)

    async def give(
        self, lane: WindowLane, records: list[HighValueRecord | bytes], start: int = 0
    ) -> list[Event]:
        """Delivers records, and lets the lane work until nothing moves."""
        events = []
        for offset, record in enumerate(records, start):
            value = record if isinstance(record, bytes) else encode(record)
            place = lane.windows.partition
            source = Source(
                topic=topics.HIGH_VALUE_ACTIONS,
                partition=place,
                offset=offset,
                key=None,
                value=value,
            )
            events.append(Event())
            await lane.take(source, await self.progress.deliver(place, offset, events[-1]))
        await quiet()
        return events


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_lane, "GATHER_S", 0)
    monkeypatch.setattr(window_lane, "RETRY_S", 0)


async def from_zero(partition: int) -> int:
    return 0


async def quiet() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def action(event: str, at_ms: int, user: str = "ann") -> UserAction:
    return UserAction(event_id=event, user_id=user, action=ActionType.CART, event_time_ms=at_ms)


def acknowledged(events: list[Event]) -> list[bool]:
    return [event.acknowledged for event in events]


async def test_triggers_are_acknowledged_before_the_marker_and_the_marker_before_the_rows() -> None:
    world = World()
    lane = world.lane()
    await world.give(lane, [action("1", 10)])
    world.producer.sent.clear()
    world.producer.held = {topics.INSTRUCTION_TRIGGERS}
    events = await world.give(lane, [Watermark(watermark_ms=130), action("2", 150)], start=1)
    assert world.producer.topics() == [topics.INSTRUCTION_TRIGGERS]
    world.producer.held = {topics.WINDOW_CHANGELOG}
    world.producer.waiting.pop().set_result(None)
    await quiet()
    assert [key for _, key, _ in world.producer.sent[1:]] == [b"!0"]
    assert acknowledged(events) == [False, False]
    world.producer.release()
    await quiet()
    assert [key for _, key, _ in world.producer.sent[1:]] == [b"!0", b"ann:0", b"ann:100"]
    assert world.producer.sent[2][2] is None  # deleted
    assert set(world.table) == {b"!0", b"ann:100"}
    assert acknowledged(events) == [True, True]


async def test_an_event_is_acknowledged_after_its_writes_and_after_those_before_it() -> None:
    world = World()
    world.producer.held = {topics.WINDOW_CHANGELOG}
    lane = world.lane()
    first = await world.give(lane, [action("1", 10)])
    second = await world.give(lane, [action("1", 10)], start=1)  # a duplicate: nothing to write
    assert acknowledged(first + second) == [False, False]
    world.producer.release()
    await quiet()
    assert acknowledged(first + second) == [True, True]


async def test_while_one_partition_waits_for_kafka_the_others_go_on() -> None:
    world = World()
    world.producer.held = {topics.INSTRUCTION_TRIGGERS}
    closing: list[HighValueRecord | bytes] = [action("1", 10), Watermark(watermark_ms=500)]
    stuck = await world.give(world.lane(0), closing)
    world.producer.held = set()
    others = await world.give(world.lane(1), closing)
    assert (acknowledged(stuck), acknowledged(others)) == ([False] * 2, [True] * 2)


async def test_what_arrives_while_records_gather_is_one_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window_lane, "GATHER_S", 0.05)
    world = World()
    events = await world.give(world.lane(), [action(str(n), 10) for n in range(5)])
    assert world.producer.sent == []
    await asyncio.sleep(0.1)
    assert [key for _, key, _ in world.producer.sent] == [b"ann:0"]
    assert all(acknowledged(events))


async def test_what_gathers_behind_a_batch_is_one_batch() -> None:
    world = World()
    world.producer.held = {topics.INSTRUCTION_TRIGGERS}
    lane = world.lane()
    await world.give(lane, [action("1", 10), Watermark(watermark_ms=130)])
    world.producer.sent.clear()
    waiting: list[HighValueRecord | bytes] = [action(str(n), 150) for n in range(2, 12)]
    await world.give(lane, waiting, start=2)
    assert world.producer.sent == []
    world.producer.release()
    await quiet()
    rows = [key for topic, key, _ in world.producer.sent if key != b"!0"]
    assert rows == [b"ann:100"]  # once, with all ten; the window that closed had no row yet


async def test_a_record_that_kafka_refuses_is_sent_again_until_it_is_taken() -> None:
    world = World()
    world.producer.failures = [KafkaError("no leader"), KafkaError("no leader")]
    closing: list[HighValueRecord | bytes] = [action("1", 10), Watermark(watermark_ms=500)]
    events = await world.give(world.lane(), closing)
    assert all(acknowledged(events))
    assert world.producer.topics().count(topics.INSTRUCTION_TRIGGERS) == 1
    assert world.crashed == []


async def test_a_failed_row_ends_the_process_and_its_event_is_never_acknowledged() -> None:
    world = World()
    world.producer.failures = [KafkaError("no broker")]
    events = await world.give(world.lane(), [action("1", 10)])
    assert acknowledged(events) == [False]
    assert [type(reason) for reason in world.crashed] == [KafkaError]


async def test_poison_becomes_a_dead_letter_and_its_neighbours_count() -> None:
    world = World()
    events = await world.give(world.lane(), [action("1", 10), b"{no json", action("2", 20)])
    assert all(acknowledged(events))
    assert world.producer.topics().count(topics.DEAD_LETTERS) == 1
    assert b'"event_id":"1"' in world.table[b"ann:0"]
    assert b'"event_id":"2"' in world.table[b"ann:0"]


async def test_a_lane_whose_partition_was_assigned_anew_writes_nothing_more() -> None:
    world = World()
    world.producer.held = {topics.INSTRUCTION_TRIGGERS}
    lane = world.lane()
    events = await world.give(lane, [action("1", 10), Watermark(watermark_ms=500)])
    lane.drop()
    world.producer.release()
    await quiet()
    assert world.producer.topics() == [topics.INSTRUCTION_TRIGGERS]
    assert world.table == {}
    assert not any(acknowledged(events))


async def test_a_full_lane_holds_the_stream_back_until_a_batch_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window_lane, "WAITING", 3)
    world = World()
    world.producer.held = {topics.INSTRUCTION_TRIGGERS}
    lane = world.lane()
    await world.give(lane, [action("1", 10), Watermark(watermark_ms=130)])
    more: list[HighValueRecord | bytes] = [action(str(n), 150) for n in range(2, 6)]
    giving = asyncio.ensure_future(world.give(lane, more, start=2))
    await quiet()
    assert not giving.done()
    world.producer.release()
    assert all(acknowledged(await giving))


async def test_the_close_delay_runs_from_the_windows_end_to_the_acknowledgement() -> None:
    delay = metrics.WINDOW_CLOSE_DELAY_SECONDS
    before_s, now_ms = delay._sum.get(), time.time_ns() // 1_000_000
    world = World()
    world.producer.held = {topics.INSTRUCTION_TRIGGERS}
    start_ms = (now_ms - 10_000) // 100 * 100
    closing: list[HighValueRecord | bytes] = [
        *(action("1", start_ms), Watermark(watermark_ms=start_ms + 130)),
    ]
    await world.give(world.lane(), closing)
    await asyncio.sleep(0.2)
    assert delay._sum.get() == before_s
    world.producer.release()
    await quiet()
    waited_s = delay._sum.get() - before_s - (now_ms - start_ms - 100) / 1_000
    assert 0.19 < waited_s < 5
