"""The window aggregator: closes each user window once and sends its trigger (Faust, one table).

Faust brings the records, shares the partitions out among the members of the group, and restores the
table from its changelog. Each partition is a lane of its own (`agents/window_lane.py`), which
applies records in batches and sends what they ask for in an order that kill -9 cannot break:

1. triggers, acknowledged;
2. the row `!p`: which windows have spoken, acknowledged where some have now;
3. the rows of windows: kept or deleted.

An event is acknowledged to Faust when its writes, and those of all before it, are acknowledged by
Kafka, so the committed offset never runs ahead of the changelog. What is read again after a crash
finds its event ids in the rows, or its window closed; a repeated trigger has the same id and
content. Offsets that Faust passes over end the process before anything behind them is applied.
"""

import asyncio
import logging
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import faust
import msgspec
from aiokafka import AIOKafkaProducer
from confluent_kafka import KafkaException
from faust.types import TP

from agents.faust_app import APP, build_app, build_table, bytes_topic, on_assignment
from agents.settings import Settings
from agents.stream_progress import OffsetsSkipped, StreamProgress
from agents.window_lane import NAME, LaneResources, WindowLane
from schemas import topics
from streams import metrics
from streams.admin import check_topics, first_unread
from streams.connections import METADATA_MAX_AGE_MS, KafkaConfig
from streams.dead_letters import Source
from streams.lag import Lags
from streams.window_rows import WatermarkRow, WindowRow
from streams.windows import PartitionWindows, WindowConfig

AGENT = "oxygenrec-windows"
STOP_S = 10.0  # a stop takes a fraction of a second

logger = logging.getLogger(__name__)
_row: msgspec.json.Decoder[WindowRow | WatermarkRow] = msgspec.json.Decoder(
    WindowRow | WatermarkRow
)


async def run(settings: Settings) -> None:
    """Aggregates until cancelled. Raises `TopicsDiffer`, or what made Faust give up."""
    check_topics(
        settings.kafka,
        (
            *(topics.HIGH_VALUE_ACTIONS, topics.INSTRUCTION_TRIGGERS),
            *(topics.WINDOW_CHANGELOG, topics.DEAD_LETTERS),
        ),
    )
    producer = _producer(settings.kafka)
    with tempfile.TemporaryDirectory(prefix="oxygenrec-windows-") as directory:
        app = build_app(settings.kafka, Path(directory))
        WindowAggregator(app, producer, settings.windows, _first_unread(settings.kafka))
        try:
            await producer.start()
            await app.start()
            window_ms = settings.windows.window_ms
            logger.info("window aggregator started", extra={"window_ms": window_ms})
            await app.wait_until_stopped()
        finally:
            await _stop(app, producer)
        if app.crash_reason is not None:
            raise app.crash_reason


async def _stop(app: faust.App, producer: AIOKafkaProducer) -> None:
    """Stops the app, or leaves it: after a crash Faust waits for ever for events in hand that
    nobody acknowledges any more, and a worker that does not end is not started again.
    """
    stopping = asyncio.ensure_future(app.stop())
    done, _ = await asyncio.wait({stopping}, timeout=STOP_S)
    if done:
        await stopping
        await producer.stop()
        logger.info("window aggregator stopped")
    else:
        logger.error("window aggregator does not stop: left as it is", extra={"waited_s": STOP_S})


def _producer(kafka: KafkaConfig) -> AIOKafkaProducer:
    """Returns the producer of triggers, letters and rows, keyed by murmur2 as everywhere.

    A record takes it 8 us of CPU, without the layers that Faust puts over it. It has one request a
    partition under way, so a retry keeps the order, and what it may write twice is harmless.
    """
    return AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap,
        client_id=f"oxygenrec-{NAME}",
        acks="all",
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
    )


def _first_unread(kafka: KafkaConfig) -> Callable[[int], Awaitable[int]]:
    def ask(partition: int) -> Awaitable[int]:
        return asyncio.to_thread(first_unread, kafka, APP, topics.HIGH_VALUE_ACTIONS, partition)

    return ask


class WindowAggregator:
    """The binding of the lanes to Faust: agent, table, assignment."""

    def __init__(
        self,
        app: faust.App,
        producer: AIOKafkaProducer,
        config: WindowConfig,
        first_unread: Callable[[int], Awaitable[int]],
    ) -> None:
        """Registers the agent and the table with the app."""
        self._app = app
        self._config = config
        self._table = build_table(app)
        self._lanes: dict[int, WindowLane] = {}
        self._restored: dict[int, list[WindowRow | WatermarkRow]] | None = None
        self._progress = StreamProgress(first_unread)
        self._lags = Lags(
            NAME, lambda topic, partition: app.consumer.highwater(TP(topic, partition))
        )
        self._shared = LaneResources(
            table=self._table.data,
            producer=producer,
            progress=self._progress,
            lags=self._lags,
            give_up=self._give_up,
        )
        source = bytes_topic(app, topics.HIGH_VALUE_ACTIONS)
        self.agent = app.agent(source, name=AGENT, concurrency=1)(self._process)
        on_assignment(app, self._assigned)
        metrics.OPEN_WINDOWS.set_function(
            lambda: sum(len(lane.windows) for lane in list(self._lanes.values()))
        )

    async def _process(self, stream: Any) -> None:
        stream.enable_acks = False  # an event is acknowledged after its writes
        async for event in stream.events():
            message = event.message
            source = Source(
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
                key=message.key,
                value=message.value,
            )
            try:
                entry = await self._progress.deliver(source.partition, source.offset, event)
            except (OffsetsSkipped, KafkaException) as error:
                await self._give_up(error)
            self._lags.begin(source.topic, source.partition, source.offset)
            await self._lane(source.partition).take(source, entry)

    def _end_of(self, topic: str, partition: int) -> int | None:
        end: int | None = self._app.consumer.highwater(TP(topic, partition))
        return end

    async def _give_up(self, error: BaseException) -> NoReturn:
        """Ends the process and applies nothing more: the next begins at the committed offset."""
        logger.critical("window aggregator gives up", extra={"cause": str(error)})
        await self._app.crash(error)
        await asyncio.Event().wait()  # until the crash cancels this task
        raise asyncio.CancelledError

    def _lane(self, partition: int) -> WindowLane:
        """Returns the lane of a partition, built from the table after each assignment."""
        if (lane := self._lanes.get(partition)) is None:
            lane = self._lanes[partition] = WindowLane(self._windows(partition), self._shared)
        return lane

    def _windows(self, partition: int) -> PartitionWindows:
        if self._restored is None:
            self._restored = defaultdict(list)
            for _, row in self._rows():
                self._restored[row.partition].append(row)
        rows = self._restored.pop(partition, [])
        windows = PartitionWindows(
            partition,
            self._config,
            [row for row in rows if isinstance(row, WindowRow)],
            next((row for row in rows if isinstance(row, WatermarkRow)), None),
        )
        logger.info("windows restored", extra={"partition": partition, "open": len(windows)})
        return windows

    def _rows(self) -> list[tuple[bytes, WindowRow | WatermarkRow]]:
        return [(key, _row.decode(value)) for key, value in self._table.data.items()]

    def _assigned(self, partitions: set[int]) -> None:
        """Forgets what another worker goes on with: its rows here would be stale on return."""
        for lane in self._lanes.values():
            lane.drop()
        self._lanes = {}
        self._restored = None
        self._progress.reset()
        self._lags.keep_only({(topics.HIGH_VALUE_ACTIONS, partition) for partition in partitions})
        lost = [key for key, row in self._rows() if row.partition not in partitions]
        for key in lost:
            self._table.data.pop(key, None)  # this copy only, not the changelog
        logger.info("partitions assigned", extra={"partitions": sorted(partitions)})
