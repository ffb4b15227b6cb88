"""The window aggregator: closes each user window once and sends its trigger (Faust, one table).

The order is what makes kill -9 at any instant neither lose nor double a trigger:

1. skip what was applied before (offset <= the largest `last_offset` in the partition's rows);
2. skip an event id that the window's row already holds;
3. write the row (with `trigger = first` and a new window, send its trigger too); on an erasure
   delete the user's rows; on a watermark:
4. send all triggers and await their acknowledgements, and those of triggers sent before;
5. write the row `!p` (watermark, last offset);
6. delete the windows.

An event is acknowledged to Faust when its writes and its trigger, and those of all before it, are
acknowledged by Kafka, so the committed offset never runs ahead of the changelog; a first action
that comes again brings its trigger again. Offsets that Faust passes over end the process before
anything behind them is applied. A repeated trigger has the same id and content.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import faust
import msgspec
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException
from faust.exceptions import FaustError

from agents.faust_app import (
    APP,
    AcknowledgedTable,
    build_app,
    build_table,
    bytes_topic,
    on_assignment,
)
from agents.settings import Settings
from agents.stream_progress import InHand, OffsetsSkipped, StreamProgress
from schemas import topics
from schemas.actions import HighValueRecord, UserAction, UserErased, Watermark
from schemas.codec import RECORDS, Decoder, encode
from schemas.dead_letters import Rejection
from schemas.errors import InvalidRecord
from streams import metrics
from streams.admin import check_topics, first_unread
from streams.connections import KafkaConfig
from streams.dead_letters import Source, count_letter, dead_letter, failure, rejection_of
from streams.windows import (
    Closing,
    Outcome,
    PartitionWindows,
    WatermarkRow,
    WindowConfig,
    WindowRow,
)

NAME = "window-aggregator"
AGENT = "oxygenrec-windows"
STOP_S = 10.0  # a stop takes a fraction of a second
RETRY_S = 1.0  # between two tries to send what Kafka did not take

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
    with tempfile.TemporaryDirectory(prefix="oxygenrec-windows-") as directory:
        app = build_app(settings.kafka, Path(directory))
        WindowAggregator(app, settings.windows, _first_unread(settings.kafka))
        await app.start()
        logger.info("window aggregator started", extra={"window_ms": settings.windows.window_ms})
        try:
            await app.wait_until_stopped()
        finally:
            await _stop(app)
        if app.crash_reason is not None:
            raise app.crash_reason


async def _stop(app: faust.App) -> None:
    """Stops the app, or leaves it: after a crash Faust waits for ever for events in hand that
    nobody acknowledges any more, and a worker that does not end is not started again.
    """
    stopping = asyncio.ensure_future(app.stop())
    done, _ = await asyncio.wait({stopping}, timeout=STOP_S)
    if done:
        await stopping
        logger.info("window aggregator stopped")
    else:
        logger.error("window aggregator does not stop: left as it is", extra={"waited_s": STOP_S})


def _first_unread(kafka: KafkaConfig) -> Callable[[int], Awaitable[int]]:
    def ask(partition: int) -> Awaitable[int]:
        return asyncio.to_thread(first_unread, kafka, APP, topics.HIGH_VALUE_ACTIONS, partition)

    return ask


class WindowAggregator:
    """The binding of `streams.windows` to Faust: agent, table, topics."""

    def __init__(
        self, app: faust.App, config: WindowConfig, first_unread: Callable[[int], Awaitable[int]]
    ) -> None:
        """Registers the agent and the table with the app."""
        self._app = app
        self._config = config
        self._table: AcknowledgedTable = build_table(app)
        self._triggers = bytes_topic(app, topics.INSTRUCTION_TRIGGERS)
        self._dead_letters = bytes_topic(app, topics.DEAD_LETTERS)
        self._decoder: Decoder[HighValueRecord] = Decoder(RECORDS[topics.HIGH_VALUE_ACTIONS])
        self._partitions: dict[int, PartitionWindows] = {}
        self._progress = StreamProgress(first_unread)
        self._sent_ahead: list[asyncio.Future[Any]] = []  # triggers of windows that stay open
        source = bytes_topic(app, topics.HIGH_VALUE_ACTIONS)
        self.agent = app.agent(source, name=AGENT, concurrency=1)(self._process)
        on_assignment(app, self._assigned)

    async def _process(self, stream: Any) -> None:
        stream.enable_acks = False  # an event is acknowledged after its writes, below
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
            triggers = await self._handle(source)
            self._finish_after(entry, [*self._table.take_writes(), *triggers])

    async def _handle(self, source: Source) -> list[asyncio.Future[Any]]:
        """Applies one record and returns the triggers on their way.

        No exception leaves: Faust would skip the record and go on.
        """
        sent: list[asyncio.Future[Any]] = []
        try:
            record = self._decoder.decode(source.value or b"")
            windows = self._windows(source.partition)
            if isinstance(record, Watermark):
                await self._advance(windows, record, source.offset)
            elif isinstance(record, UserErased):
                self._erase(windows, record, source.offset)
            else:
                sent = await self._observe(windows, record, source.offset)
        except InvalidRecord as error:
            await self._refuse(source, rejection_of(error))
        except Exception as error:
            logger.exception("record not applied", extra={"source": source})
            await self._refuse(source, failure(error))
        metrics.CONSUMED.labels(worker=NAME, topic=topics.HIGH_VALUE_ACTIONS).inc()
        return sent

    async def _observe(
        self, windows: PartitionWindows, action: UserAction, offset: int
    ) -> list[asyncio.Future[Any]]:
        observed = windows.observe(action, offset)
        if observed.outcome is Outcome.ADDED:
            self._table[observed.key] = observed.value
            metrics.OPEN_WINDOWS.set(sum(map(len, self._partitions.values())))
        elif observed.outcome is Outcome.LATE:
            metrics.LATE_ACTIONS.inc()
            logger.debug("late action", extra={"user": action.user_id, "event": action.event_id})
        else:
            metrics.DUPLICATES.labels(worker=NAME).inc()
        if observed.trigger is None:
            return []
        key, value = action.user_id.encode(), encode(observed.trigger)
        sent = [await self._triggers.send(key=key, value=value)]
        self._sent_ahead += sent
        return sent

    def _erase(self, windows: PartitionWindows, record: UserErased, offset: int) -> None:
        for key in windows.erase(record.user_id, offset):
            del self._table[key]
            metrics.WINDOWS_ERASED.inc()
        metrics.OPEN_WINDOWS.set(sum(map(len, self._partitions.values())))

    async def _advance(self, windows: PartitionWindows, record: Watermark, offset: int) -> None:
        closing = windows.advance(record.watermark_ms, offset)
        if closing is None:
            return
        await self._until_sent_ahead()
        await self._send_triggers(closing)
        self._table[closing.marker_key] = encode(closing.marker)
        for key in closing.keys:
            del self._table[key]
        windows.closed(closing)
        metrics.WINDOWS_CLOSED.inc(closing.windows)
        metrics.OPEN_WINDOWS.set(sum(map(len, self._partitions.values())))
        metrics.WATERMARK_SECONDS.labels(worker=NAME, partition=windows.partition).set(
            record.watermark_ms / 1_000
        )

    async def _until_sent_ahead(self) -> None:
        """Returns when the triggers of first actions are acknowledged; a refused one ends it all.

        Behind the watermark their rows are gone, and nothing would bring them again.
        """
        sent, self._sent_ahead = self._sent_ahead, []
        if sent:
            await asyncio.wait(sent)
        for trigger in sent:
            if (error := trigger.exception()) is not None:
                await self._give_up(error)

    async def _send_triggers(self, closing: Closing) -> None:
        await self._send_all(
            self._triggers,
            [(trigger.user_id.encode(), encode(trigger)) for trigger in closing.triggers],
        )
        now_ms = time.time_ns() // 1_000_000
        for trigger in closing.triggers:  # in a replay of the past these are months
            metrics.WINDOW_CLOSE_DELAY_SECONDS.observe((now_ms - trigger.window_end_ms) / 1_000)
        if closing.windows:
            logger.info(
                "windows closed",
                extra={
                    "partition": closing.marker.partition,
                    "windows": closing.windows,
                    "watermark_ms": closing.marker.watermark_ms,
                },
            )

    async def _refuse(self, source: Source, rejection: Rejection) -> None:
        count_letter(source, rejection, worker=NAME)
        now_ms = time.time_ns() // 1_000_000
        letter = dead_letter(source, rejection, worker=NAME, now_ms=now_ms)
        await self._send_all(self._dead_letters, [(None, encode(letter))])

    async def _send_all(self, topic: Any, records: Iterable[tuple[bytes | None, bytes]]) -> None:
        """Returns when Kafka has acknowledged all; tries for ever (a repeat changes nothing)."""
        waiting = list(records)
        while waiting:
            try:
                sent = [await topic.send(key=key, value=value) for key, value in waiting]
                await asyncio.gather(*sent)  # `send` alone returns before the acknowledgement
            except (KafkaError, FaustError) as error:
                logger.warning("Kafka does not take records", extra={"cause": repr(error)})
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _finish_after(self, entry: InHand, writes: list[Any]) -> None:
        if not writes:
            self._progress.finish(entry)
            return

        def written(outcome: asyncio.Future[Any]) -> None:
            if outcome.cancelled():
                return
            error = outcome.exception()
            if error is None:
                self._progress.finish(entry)
            else:
                asyncio.ensure_future(self._give_up(error))  # noqa: RUF006  it ends the process

        asyncio.gather(*writes).add_done_callback(written)

    async def _give_up(self, error: BaseException) -> NoReturn:
        """Ends the process and applies nothing more: the next begins at the committed offset."""
        logger.critical("window aggregator gives up", extra={"cause": str(error)})
        await self._app.crash(error)
        await asyncio.Event().wait()  # until the crash cancels this task
        raise asyncio.CancelledError

    def _windows(self, partition: int) -> PartitionWindows:
        """Returns the windows of a partition, built from the table after each assignment."""
        if partition not in self._partitions:
            rows = [row for _, row in self._rows() if row.partition == partition]
            self._partitions[partition] = PartitionWindows(
                partition,
                self._config,
                [row for row in rows if isinstance(row, WindowRow)],
                next((row for row in rows if isinstance(row, WatermarkRow)), None),
            )
            logger.info(
                "windows restored",
                extra={"partition": partition, "open": len(self._partitions[partition])},
            )
        return self._partitions[partition]

    def _rows(self) -> list[tuple[bytes, WindowRow | WatermarkRow]]:
        return [(key, _row.decode(value)) for key, value in self._table.items()]

    def _assigned(self, partitions: set[int]) -> None:
        """Forgets what another worker goes on with: its rows here would be stale on return."""
        self._partitions.clear()
        self._progress.reset()
        lost = [key for key, row in self._rows() if row.partition not in partitions]
        for key in lost:
            self._table.data.pop(key, None)  # this copy only, not the changelog
        logger.info("partitions assigned", extra={"partitions": sorted(partitions)})
