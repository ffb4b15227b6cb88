"""One partition of the window aggregator: records become effects, batch by batch.

While one batch waits for Kafka the next one gathers, and other partitions go on: what is written
and awaited a batch is small beside what a busy partition brings. The order inside a batch is that
of `streams.windows.Effects`; it holds whenever the process is killed.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents.stream_progress import InHand, StreamProgress
from schemas import topics
from schemas.actions import HighValueRecord, UserErased, Watermark
from schemas.codec import RECORDS, Decoder, encode
from schemas.dead_letters import Rejection
from schemas.errors import InvalidRecord
from schemas.instructions import InstructionTrigger
from streams import metrics
from streams.dead_letters import Source, count_letter, dead_letter, failure, rejection_of
from streams.lag import Lags
from streams.window_rows import Outcome, marker_key
from streams.windows import Effects, PartitionWindows

NAME = "window-aggregator"
# Records gather this long, beside a grace of 10 s: 25 of a partition at 2,000 a second over four.
# Without it batches are of one (Faust gives its loop away after each), with requests to Kafka each.
GATHER_S = 0.05
BATCH = 1_000  # records: a tenth of a second of work, then other partitions get their turn
WAITING = 4_000  # then the stream waits: Faust's own queue holds as many
RETRY_S = 1.0  # between two tries to send what Kafka did not take

logger = logging.getLogger(__name__)
_decoder: Decoder[HighValueRecord] = Decoder(RECORDS[topics.HIGH_VALUE_ACTIONS])


@dataclass(frozen=True, slots=True)
class Record:
    """What is sent: a topic, a key and the bytes; `partition` None: the key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneResources:
    """What all lanes share: the table's copy in memory, the producer, and the way out."""

    table: MutableMapping[bytes, bytes]
    producer: AIOKafkaProducer
    progress: StreamProgress
    lags: Lags
    give_up: Callable[[BaseException], Awaitable[NoReturn]]


class WindowLane:
    """The windows of one partition, and the records that wait for them."""

    def __init__(self, windows: PartitionWindows, shared: LaneResources) -> None:
        self.windows = windows
        self._shared = shared
        self._waiting: deque[tuple[Source, InHand]] = deque()
        self._working: asyncio.Task[None] | None = None
        self._finishing: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._dropped = False

    async def take(self, source: Source, entry: InHand) -> None:
        """Queues a record; returns when there is room for more."""
        self._waiting.append((source, entry))
        if self._working is None:
            self._working = asyncio.ensure_future(self._work())
        if len(self._waiting) >= WAITING:
            self._room.clear()
            await self._room.wait()

    def drop(self) -> None:
        """Applies nothing more: the partition was assigned anew, and its records come again."""
        self._dropped = True
        self._waiting.clear()
        self._room.set()

    async def _work(self) -> None:
        try:
            while self._waiting and not self._dropped:
                await asyncio.sleep(GATHER_S)
                count = min(BATCH, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(count)]
                self._room.set()
                await self._apply(batch)
        except Exception as error:  # noqa: BLE001  it ends the process
            await self._shared.give_up(error)
        finally:
            self._working = None

    async def _apply(self, batch: Sequence[tuple[Source, InHand]]) -> None:
        letters = [letter for source, _ in batch if (letter := self._observed(source)) is not None]
        effects = self.windows.take_effects()
        await self._send([*letters, *map(_trigger, effects.triggers)])
        _measure(effects)
        writes = []
        if effects.marker is not None and not self._dropped:
            writes.append(await self._keep(marker_key(self.windows.partition), effects.marker))
            if effects.closed:
                await writes[0]
        if self._dropped:
            return
        for key, row in effects.rows.items():
            writes.append(await self._keep(key, row))
        task = asyncio.ensure_future(self._finish(batch, writes))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def _observed(self, source: Source) -> Record | None:
        """Tells the windows of one record; returns the dead letter of one that cannot be used."""
        try:
            record = _decoder.decode(source.value or b"")
            if isinstance(record, Watermark):
                self.windows.advance(record.watermark_ms, source.offset)
            elif isinstance(record, UserErased):
                metrics.WINDOWS_ERASED.inc(self.windows.erase(record.user_id))
            else:
                outcome = self.windows.observe(record, source.offset)
                if outcome is not Outcome.ADDED:
                    _count(outcome, {"user": record.user_id, "event": record.event_id})
        except InvalidRecord as error:
            return _letter(source, rejection_of(error))
        except Exception as error:
            logger.exception("record not applied", extra={"source": source})
            return _letter(source, failure(error))
        return None

    async def _send(self, records: Sequence[Record]) -> None:
        """Returns when Kafka has acknowledged all; tries for ever (a repeat changes nothing)."""
        while records:
            sent = [await self._produce(record) for record in records]
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
            failed = [error for error in outcomes if isinstance(error, BaseException)]
            if failed:
                logger.warning("Kafka does not take records", extra={"cause": repr(failed[0])})
                await asyncio.sleep(RETRY_S)
            records = [
                record
                for record, outcome in zip(records, outcomes, strict=True)
                if isinstance(outcome, BaseException)
            ]

    async def _produce(self, record: Record) -> asyncio.Future[Any]:
        try:
            sent: asyncio.Future[Any] = await self._shared.producer.send(
                record.topic, record.value, key=record.key, partition=record.partition
            )
        except KafkaError as error:
            sent = asyncio.get_running_loop().create_future()
            sent.set_exception(error)
        return sent

    async def _keep(self, key: bytes, row: msgspec.Struct | None) -> asyncio.Future[Any]:
        """Puts a row into the table (None deletes); the future is its acknowledgement."""
        value = None if row is None else encode(row)
        if value is None:
            self._shared.table.pop(key, None)
        else:
            self._shared.table[key] = value
        return await self._produce(
            Record(topics.WINDOW_CHANGELOG, key, value, self.windows.partition)
        )

    async def _finish(
        self, batch: Sequence[tuple[Source, InHand]], writes: Sequence[asyncio.Future[Any]]
    ) -> None:
        try:
            await asyncio.gather(*writes)
        except Exception as error:  # noqa: BLE001  it ends the process
            await self._shared.give_up(error)
        for _, entry in batch:
            self._shared.progress.finish(entry)
        last = batch[-1][0]
        self._shared.lags.finish(last.topic, last.partition, last.offset + 1)
        metrics.CONSUMED.labels(worker=NAME, topic=topics.HIGH_VALUE_ACTIONS).inc(len(batch))


def _trigger(trigger: InstructionTrigger) -> Record:
    return Record(topics.INSTRUCTION_TRIGGERS, trigger.user_id.encode(), encode(trigger))


def _letter(source: Source, rejection: Rejection) -> Record:
    count_letter(source, rejection, worker=NAME)
    now_ms = time.time_ns() // 1_000_000
    letter = dead_letter(source, rejection, worker=NAME, now_ms=now_ms)
    return Record(topics.DEAD_LETTERS, None, encode(letter))


def _count(outcome: Outcome, about: dict[str, str]) -> None:
    if outcome is Outcome.LATE:
        metrics.LATE_ACTIONS.inc()
    else:
        metrics.DUPLICATES.labels(worker=NAME).inc()
    logger.debug("action not added", extra={"outcome": outcome.value, **about})


def _measure(effects: Effects) -> None:
    """Counts what has closed: its triggers are acknowledged now."""
    now_ms = time.time_ns() // 1_000_000
    for trigger in effects.triggers:  # in a replay of the past these are months
        if trigger.as_of_ms is None:
            delay_ms = now_ms - trigger.window_end_ms
            metrics.WINDOW_CLOSE_DELAY_SECONDS.observe(delay_ms / 1_000)
    metrics.WINDOWS_CLOSED.inc(effects.closed)
    if (marker := effects.marker) is not None:
        watermark = metrics.WATERMARK_SECONDS.labels(worker=NAME, partition=marker.partition)
        watermark.set(marker.watermark_ms / 1_000)
        if effects.closed:
            said = {"partition": marker.partition, "windows": effects.closed}
            logger.info("windows closed", extra={**said, "watermark_ms": marker.watermark_ms})
