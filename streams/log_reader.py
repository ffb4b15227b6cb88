"""Reads one partition by plain assignment: the caller keeps the offsets, without a group.

What is built from a log (weights, a catalogue snapshot, the served policy) keeps its own position,
so that a crash neither skips nor repeats anything of it.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.errors import OxygenRecError
from streams.connections import METADATA_MAX_AGE_MS, KafkaConfig

POLL_MS = 200  # how long one fetch waits for new records: bounds the reaction to a stop
READ_DEADLINE_MS = 30_000  # a snapshot of 100k records takes about 2 s


class OffsetExpired(OxygenRecError):
    """The log no longer holds the wanted offset: retention removed it."""

    def __init__(self, *, topic: str, partition: int, wanted: int, earliest: int) -> None:
        self.topic = topic
        self.partition = partition
        self.wanted = wanted
        self.earliest = earliest
        super().__init__(
            f"{topic}[{partition}]@{wanted} is gone, the log begins at {earliest}: go on"
            " from there, or raise the topic's retention above the longest stop"
        )


class LogReadTimeout(OxygenRecError):
    """The wanted end was not reached in time."""

    def __init__(
        self, *, topic: str, partition: int, position: int, wanted: int, deadline_ms: int
    ) -> None:
        self.position = position
        self.wanted = wanted
        super().__init__(
            f"{topic}[{partition}]@{position}: wanted to reach {wanted}, nothing came for"
            f" {deadline_ms} ms; look at the broker's log"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One record as it lies in the log; a None value is a tombstone."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


class Tail(NamedTuple):
    """One fetch of a log that is followed: perhaps nothing, the offset behind it, and whether that
    was the log's end.
    """

    records: list[LogRecord]
    position: int
    at_end: bool


class LogReader:
    """An async context: one connection, one partition, as many reads as wanted, one at a time."""

    def __init__(self, kafka: KafkaConfig, topic: str, partition: int = 0) -> None:
        """Prepares a reader; nothing is opened before `async with`."""
        self.topic = topic
        self.partition = partition
        self._kafka = kafka
        self._assigned = TopicPartition(topic, partition)
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Self:
        """Connects. aiokafka's KafkaConnectionError says when there is no broker."""
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap,
            client_id=f"oxygenrec-{self.topic}-reader",
            enable_auto_commit=False,
            auto_offset_reset="none",  # an expired offset is an error, never a silent jump
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            check_crcs=self._kafka.check_crcs,
        )
        await self._consumer.start()
        self._consumer.assign([self._assigned])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnects."""
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def bounds(self) -> tuple[int, int]:
        """Returns the earliest offset and the end (one past the last record)."""
        earliest = await self._open().beginning_offsets([self._assigned])
        end = await self._open().end_offsets([self._assigned])
        return int(earliest[self._assigned]), int(end[self._assigned])

    async def offset_at(self, time_ms: int) -> int:
        """Returns the offset of the first record at or after a time; the end where there is none.

        The time is the broker's in topics of LogAppendTime, the producer's in others.
        """
        found = await self._open().offsets_for_times({self._assigned: time_ms})
        if (place := found.get(self._assigned)) is not None:
            return int(place.offset)
        return (await self.bounds())[1]

    async def read(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        deadline_ms: int = READ_DEADLINE_MS,
    ) -> list[LogRecord]:
        """Returns the records of [start, stop), by default from the earliest to the present end.

        Raises OffsetExpired, LogReadTimeout (also when `stop` lies beyond what is ever produced).
        """
        return [record async for record in self.scan(start, stop, deadline_ms=deadline_ms)]

    async def scan(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        deadline_ms: int = READ_DEADLINE_MS,
    ) -> AsyncIterator[LogRecord]:
        """Yields what `read` returns, for a log that does not fit into memory."""
        async for batch in self.batches(start, stop, deadline_ms=deadline_ms):
            for record in batch:
                yield record

    async def batches(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        deadline_ms: int = READ_DEADLINE_MS,
    ) -> AsyncIterator[list[LogRecord]]:
        """Yields what `scan` yields, fetch by fetch.

        `deadline_ms` is the longest wait without a new record, however long the log is.
        """
        earliest, end = await self.bounds()
        wanted = end if stop is None else stop
        position = await self._seek(earliest if start is None else start, earliest)
        deadline = time.monotonic() + deadline_ms / 1000
        while position < wanted:
            if time.monotonic() > deadline:
                raise LogReadTimeout(
                    topic=self.topic,
                    partition=self.partition,
                    position=position,
                    wanted=wanted,
                    deadline_ms=deadline_ms,
                )
            fetched = await self._fetch()
            # Not the last record's offset: compaction and transactions leave gaps at the end too.
            before, position = position, await self._open().position(self._assigned)
            if position > before:
                deadline = time.monotonic() + deadline_ms / 1000
            if batch := [record for record in fetched if record.offset < wanted]:
                yield batch

    async def follow(self, start: int | None = None) -> AsyncIterator[LogRecord]:
        """Yields every record from `start` (default: the earliest) on, for ever.

        Raises OffsetExpired.
        """
        earliest, _ = await self.bounds()
        await self._seek(earliest if start is None else start, earliest)
        while True:
            for record in await self._fetch():
                yield record

    async def tail(self, start: int) -> AsyncIterator[Tail]:
        """Yields every fetch from `start` on, for ever, at least five a second. Raises
        OffsetExpired.
        """
        earliest, _ = await self.bounds()
        await self._seek(start, earliest)
        while True:
            records = await self._fetch()
            position = int(await self._open().position(self._assigned))
            end = self._open().highwater(self._assigned)  # None before the first answer
            yield Tail(records, position, end is not None and position >= end)

    async def _seek(self, start: int, earliest: int) -> int:
        if start < earliest:
            raise OffsetExpired(
                topic=self.topic, partition=self.partition, wanted=start, earliest=earliest
            )
        self._open().seek(self._assigned, start)
        return start

    async def _fetch(self) -> list[LogRecord]:
        batches = await self._open().getmany(self._assigned, timeout_ms=POLL_MS)
        return [
            LogRecord(
                offset=record.offset,
                key=record.key,
                value=record.value,
                timestamp_ms=record.timestamp,
            )
            for record in batches.get(self._assigned, [])
        ]

    def _open(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("LogReader is used outside of `async with`")
        return self._consumer
