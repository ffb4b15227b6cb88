"""The router: reads `actions`, keeps history and popularity in Redis, forwards high-value actions.

One batch, in the order of guarantee 3 (docs/architecture.md); a crash between two steps repeats
the batch, and every step is idempotent:

1. decode, validate, tell duplicates and misrouted keys apart (`agents/routing.py`);
2. Lua calls of a thousand entries: history and popularity; what they count decides which
   clicks are high-value (`agents/high_value.py`);
3. produce high-value actions, then the watermark of each partition; dead letters; misrouted ones;
4. await every acknowledgement;
5. commit the offsets: of all that is done, once a second and whenever nothing waits to be read.

Step 1 computes, and packs Redis' calls; the others wait: while one batch is written to Redis on a
thread of its own, and one is being acknowledged, the next is decoded. Effects and commits keep the
order of the batches. Before partitions move, and before a watermark of the wall clock, all in hand
is finished.
"""

import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import redis
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from agents.high_value import chosen
from agents.routing import Arrived, Batch, Routing
from agents.settings import Settings
from schemas import topics
from schemas.actions import UserAction, Watermark
from streams import metrics
from streams.admin import check_topics
from streams.cloud_events import Headers
from streams.connections import KafkaConfig
from streams.dead_letters import DeadLetters
from streams.lag import Lags
from streams.producer import Delivered, RecordProducer
from streams.redis_client import router_client
from streams.redis_history import HistoryWriter, PackedCalls

NAME = "router"
GROUP = "oxygenrec-router"
POLL_S = 0.05  # a part-filled batch waits this long: it bounds the delay of a quiet stream
REDIS_RETRY_S = 0.5
END_TIMEOUT_S = 1.0
BATCHES_IN_HAND = 3  # one in Redis, one whose acknowledgements are under way, one that waits
# The thread that Redis has answered waits this long for the one that routes: with Python's 5 ms a
# full log was routed a sixth slower.
HAND_OVER_S = 0.0005
SESSION_TIMEOUT_MS = 10_000  # a killed router's partitions move after this long

logger = logging.getLogger(__name__)


def now_ms() -> int:
    """Returns the wall clock."""
    return time.time_ns() // 1_000_000


def consumer_config(kafka: KafkaConfig) -> dict[str, object]:
    """Returns librdkafka's settings of a member of the group."""
    return {
        "bootstrap.servers": kafka.bootstrap,
        "client.id": f"oxygenrec-{NAME}",
        "group.id": GROUP,
        "group.instance.id": kafka.group_instance_id(NAME) or "",  # empty: a dynamic member
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "partition.assignment.strategy": "range",
        "session.timeout.ms": SESSION_TIMEOUT_MS,
        "check.crcs": kafka.check_crcs,
        "fetch.wait.max.ms": 100,
    }


def run(settings: Settings) -> None:
    """Routes until SIGTERM or SIGINT. Raises `TopicsDiffer`, `UndeliveredRecord`."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: stop.set())
    sys.setswitchinterval(HAND_OVER_S)
    Router(settings).run(stop)


@dataclass(frozen=True, slots=True)
class InHand:
    """A batch on its way, how many messages it was, and what Kafka must acknowledge of it.

    None in place of acknowledgements: it was stopped while Redis was away, and comes again.
    """

    batch: Batch
    messages: int
    effects: Future[list[Future[Delivered]] | None]


class Router:
    """One member of the group `oxygenrec-router`."""

    def __init__(self, settings: Settings) -> None:
        """Connects. Raises `TopicsDiffer` when the broker lacks our topics."""
        kafka = settings.kafka
        check_topics(kafka, (topics.ACTIONS, topics.HIGH_VALUE_ACTIONS, topics.DEAD_LETTERS))
        self._config = settings.router
        self._routing = Routing(
            settings.router, frozenset(settings.serving.scenarios), kafka.partitions
        )
        self._producer = RecordProducer(kafka, f"oxygenrec-{NAME}")
        self._dead_letters = DeadLetters(self._producer, NAME, now_ms)
        self._history = HistoryWriter(router_client(settings.redis), settings.router.history_length)
        self._positions: dict[int, int] = {}
        self._uncommitted: dict[int, int] = {}  # what is done of them since the last commit
        self._in_hand: deque[InHand] = deque()
        self._effects = ThreadPoolExecutor(1, "router-effects")
        self._consumer = Consumer(consumer_config(kafka), logger=logger)
        self._lags = Lags(NAME, self._end_of)

    def run(self, stop: threading.Event) -> None:
        """Routes batches and announces watermarks until `stop` is set, then leaves the group."""
        self._consumer.subscribe(
            [topics.ACTIONS], on_assign=self._assigned, on_revoke=self._revoked
        )
        logger.info("router started", extra={"clock": self._config.clock})
        due_s = time.monotonic()
        try:
            while not stop.is_set():
                messages = self._consumer.consume(self._config.batch, POLL_S)
                self._route(messages, stop)
                if not messages or time.monotonic() >= due_s:
                    self._finish()
                if time.monotonic() >= due_s:
                    self._look_for_ends()
                    risen = self._routing.news()
                    self._await(self._send_watermarks(risen))
                    self._routing.announced(risen)
                    due_s = time.monotonic() + self._config.watermark_ms / 1_000
            self._finish()
        finally:
            stop.set()  # effects that wait for Redis give up
            self._effects.shutdown()
            self._consumer.close()
            self._producer.close()
            logger.info("router stopped")

    def _route(self, messages: Sequence[Message], stop: threading.Event) -> None:
        arrived = [entry for message in messages if (entry := _arrived(message)) is not None]
        if not arrived:
            return
        batch = self._routing.route(arrived, now_ms())
        risen = self._routing.news()  # now: the next batch must not speak for this one
        self._routing.announced(risen)
        history = self._history.pack(batch.history, batch.counted)
        effects = self._effects.submit(self._make, batch, history, risen, stop)
        self._in_hand.append(InHand(batch, len(arrived), effects))
        while len(self._in_hand) > BATCHES_IN_HAND:
            self._finish_oldest()

    def _make(
        self,
        batch: Batch,
        history: Sequence[PackedCalls],
        risen: dict[int, int],
        stop: threading.Event,
    ) -> list[Future[Delivered]] | None:
        """Writes history, then queues what the batch asks for; batch after batch on one thread."""
        return self._send(batch, risen) if self._write_history(batch, history, stop) else None

    def _finish(self) -> None:
        """Waits for everything in hand, and commits it. Raises `UndeliveredRecord`."""
        while self._in_hand:
            self._finish_oldest()
        self._commit()

    def _finish_oldest(self) -> None:
        oldest = self._in_hand.popleft()
        sent = oldest.effects.result()
        if sent is None:
            return
        self._await(sent)
        self._positions.update(oldest.batch.positions)
        self._uncommitted.update(oldest.batch.positions)
        self._routing.done(oldest.batch)
        _count(oldest.batch, oldest.messages)

    def _write_history(
        self, batch: Batch, history: Sequence[PackedCalls], stop: threading.Event
    ) -> bool:
        """Writes until Redis has it. Without Redis nothing may go on: history comes first."""
        while not stop.is_set():
            try:
                written = self._history.write_packed(history)
            except redis.RedisError as error:
                logger.warning("Redis does not take history", extra={"cause": str(error)})
                stop.wait(REDIS_RETRY_S)
            else:
                batch.high_value = chosen(batch.candidates, written.clicks)
                metrics.ROUTED.labels(kind="history").inc(written.fresh)
                return True
        return False

    def _send(self, batch: Batch, risen: dict[int, int]) -> list[Future[Delivered]]:
        """Queues everything the batch asks for, watermarks behind the actions they speak about."""
        sent = [
            self._producer.send(
                topics.HIGH_VALUE_ACTIONS, one.record, one.record.user_id, partition=one.partition
            )
            for one in batch.high_value
        ]
        sent += self._send_watermarks(risen)
        sent += [
            self._producer.send(topics.ACTIONS, source.value, user_id, headers=source.headers)
            for user_id, source in batch.misrouted
        ]
        sent += [self._dead_letters.send(source, why) for source, why in batch.dead]
        return sent

    def _send_watermarks(self, risen: dict[int, int]) -> list[Future[Delivered]]:
        sent = []
        for partition, watermark_ms in risen.items():
            record = Watermark(watermark_ms=watermark_ms)
            sent.append(
                self._producer.send(topics.HIGH_VALUE_ACTIONS, record, None, partition=partition)
            )
            metrics.WATERMARK_SECONDS.labels(worker=NAME, partition=partition).set(
                watermark_ms / 1_000
            )
        return sent

    def _await(self, sent: list[Future[Delivered]]) -> None:
        """Returns when all is acknowledged. Raises `UndeliveredRecord`: the worker starts again."""
        for future in sent:
            future.result()

    def _commit(self) -> None:
        positions, self._uncommitted = self._uncommitted, {}
        if not positions:
            return
        offsets = [TopicPartition(topics.ACTIONS, p, at) for p, at in positions.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # The partitions have moved: their new owner repeats the batch, which changes nothing.
            logger.warning("offsets not committed", extra={"cause": str(error)})
            return
        for partition, offset in positions.items():
            self._lags.finish(topics.ACTIONS, partition, offset)

    def _end_of(self, topic: str, partition: int) -> int | None:
        """Returns the end as the last fetch told it; asks nobody."""
        place = TopicPartition(topic, partition)
        _, end = self._consumer.get_watermark_offsets(place, cached=True)
        return end if end >= 0 else None

    def _look_for_ends(self) -> None:
        """Lets the wall clock speak for partitions that hold nothing unread (not in a replay)."""
        if self._config.clock != "live":
            return
        for partition, position in self._positions.items():
            asked_ms = now_ms()  # before the question: what is appended later carries a later time
            try:
                _, end = self._consumer.get_watermark_offsets(
                    TopicPartition(topics.ACTIONS, partition), timeout=END_TIMEOUT_S
                )
            except KafkaException as error:
                logger.warning("end of partition unknown", extra={"cause": str(error)})
                return
            if position >= end:
                self._routing.read_to_end(partition, asked_ms)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        committed = consumer.committed(partitions, timeout=10.0)
        self._positions = {}
        for place in committed:
            start = place.offset
            if start < 0:
                start, _ = consumer.get_watermark_offsets(place, timeout=10.0)
            self._positions[place.partition] = start
        self._routing.assign(self._positions)
        self._lags.keep_only({(topics.ACTIONS, partition) for partition in self._positions})
        for partition, position in self._positions.items():
            self._lags.begin(topics.ACTIONS, partition, position)
        logger.info("partitions assigned", extra={"partitions": sorted(self._positions)})

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._finish()  # while these partitions are still ours to commit
        self._positions = {}
        self._routing.assign(())


def _arrived(message: Message) -> Arrived | None:
    error = message.error()
    if error is not None:
        if error.fatal():
            raise KafkaException(error)
        logger.warning("Kafka reports an error", extra={"cause": error.str()})
        return None
    partition, offset = message.partition(), message.offset()
    if partition is None or offset is None:
        return None
    # The stubs name the headers a producer may give; what is read is a list with bytes.
    headers = cast(Headers, message.headers() or ())
    append_ms = message.timestamp()[1]
    return Arrived(partition, offset, append_ms, message.key(), message.value(), headers)


def _count(batch: Batch, consumed: int) -> None:
    metrics.CONSUMED.labels(worker=NAME, topic=topics.ACTIONS).inc(consumed)
    actions = sum(isinstance(one.record, UserAction) for one in batch.high_value)
    metrics.ROUTED.labels(kind="high_value").inc(actions)
    metrics.DUPLICATES.labels(worker=NAME).inc(batch.duplicates)
    metrics.MISROUTED.inc(len(batch.misrouted))
    metrics.CONTRADICTING_HEADERS.inc(batch.contradictions)
    if batch.dead:
        source, rejection = batch.dead[0]
        said = {"records": len(batch.dead), "first": source, "reason": rejection.reason.value}
        logger.warning("records refused", extra=said)
