"""Produces records to Kafka: idempotent, acknowledged by all replicas, one future a record.

Every producer here hashes keys with murmur2, as Java does: with librdkafka's default one user would
land in two partitions. A poll thread serves delivery reports; a future therefore completes on that
thread, and `asyncio.wrap_future` brings it to a loop.

`send` never blocks and never raises for trouble with Kafka: that is the future's exception.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas import topics
from schemas.actions import UserAction, UserErased
from schemas.codec import encode
from schemas.errors import OxygenRecError
from streams import metrics
from streams.cloud_events import Headers, cloud_event_headers
from streams.connections import KafkaConfig

BUFFERED_RECORDS = 100_000  # then `send` fails at once: Kafka does not keep up
BUFFERED_KIB = 131_072
LINGER_MS = (
    5  # batches of a busy edge grow to tens of records; an action waits 5 ms of its 5 s at most
)
DELIVERY_TIMEOUT_MS = 30_000  # three times the stall that a killed broker leaves (9-12 s)
POLL_S = 0.1
SAY_EVERY_S = 30.0  # librdkafka reports a broker that is away once a second
IDENTITIES = ("event_id", "request_id", "trigger_id", "instruction_id", "item_id", "user_id")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Where an acknowledged record stands, and the broker's time of it (-1 when it gives none)."""

    topic: str
    partition: int
    offset: int
    append_ms: int


class UndeliveredRecord(OxygenRecError):
    """A record that Kafka did not acknowledge. It may be there all the same: retry with its id."""

    def __init__(self, *, topic: str, identity: str, cause: str) -> None:
        self.topic = topic
        self.identity = identity
        self.cause = cause
        super().__init__(f"{topic}: record {identity} was not acknowledged: {cause}; send it again")


class UndeliveredRecords(OxygenRecError):
    """Records without an acknowledgement: `identities` names each of them."""

    def __init__(
        self, *, identities: Sequence[str], deadline_ms: int, cause: str = "no report from Kafka"
    ) -> None:
        self.identities = tuple(identities)
        self.deadline_ms = deadline_ms
        self.cause = cause
        shown = ", ".join(self.identities[:10])
        more = f" and {len(self.identities) - 10} more" if len(self.identities) > 10 else ""
        super().__init__(
            f"{len(self.identities)} records not acknowledged within {deadline_ms} ms ({cause}): "
            f"{shown}{more}; see whether Kafka is up, then send them again"
        )


def producer_config(
    kafka: KafkaConfig,
    client_id: str,
    delivery_timeout_ms: int,
    buffered_records: int = BUFFERED_RECORDS,
) -> dict[str, object]:
    """Returns librdkafka's settings: nothing lost, nothing doubled by a retry, keys as in Java."""
    return {
        "bootstrap.servers": kafka.bootstrap,
        "client.id": client_id,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "compression.type": "gzip",  # every client here reads it without another library
        "linger.ms": LINGER_MS,
        "queue.buffering.max.messages": buffered_records,
        "queue.buffering.max.kbytes": BUFFERED_KIB,
        "delivery.timeout.ms": delivery_timeout_ms,
        "reconnect.backoff.max.ms": 1_000,  # a broker that is back is found within a second
        "topic.metadata.refresh.interval.ms": 30_000,
        "log_level": 2,  # not a line for each of 20 attempts a second: `_say` is enough
    }


class RecordProducer:
    """Sends records of `schemas`; close it to flush. Thread-safe."""

    def __init__(
        self,
        kafka: KafkaConfig,
        client_id: str,
        *,
        delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS,
        buffered_records: int = BUFFERED_RECORDS,
    ) -> None:
        config = producer_config(kafka, client_id, delivery_timeout_ms, buffered_records)
        self._said_s = -SAY_EVERY_S
        self._producer = Producer({**config, "error_cb": self._say}, logger=logger)
        self._pending: dict[Future[Delivered], str] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name=f"{client_id}-poll", daemon=True)
        self._poller.start()

    def send(
        self,
        topic: str,
        record: msgspec.Struct | bytes | None,
        key: str | bytes | None,
        *,
        partition: int | None = None,
        headers: Headers = (),
    ) -> Future[Delivered]:
        """Queues a record (bytes as they are, None: a tombstone); the future is its acknowledging.

        It raises `UndeliveredRecord`. Without `partition` the key's murmur2 hash decides.
        """
        identity = identity_of(record, key)
        future: Future[Delivered] = Future()
        with self._lock:
            self._pending[future] = identity
        value = encode(record) if isinstance(record, msgspec.Struct) else record
        try:
            self._producer.produce(
                topic,
                value=value,
                key=key.encode() if isinstance(key, str) else key,
                partition=-1 if partition is None else partition,
                headers=list(headers),
                on_delivery=self._reporter(future, topic, identity),
            )
        except (BufferError, KafkaException) as error:
            self._fail(future, topic, identity, str(error))
        return future

    def flush(self, deadline_ms: int) -> None:
        """Waits until all that was sent is acknowledged or has failed.

        Raises `UndeliveredRecords` naming what had no report at the deadline.
        """
        until = time.monotonic() + deadline_ms / 1_000
        self._producer.flush(deadline_ms / 1_000)
        while (waiting := self.unacknowledged()) and time.monotonic() < until:
            time.sleep(0.005)  # the poll thread may hold the last reports
        if waiting:
            raise UndeliveredRecords(identities=waiting, deadline_ms=deadline_ms)

    def unacknowledged(self) -> list[str]:
        """Returns the identities of the records without a report yet."""
        with self._lock:
            return list(self._pending.values())

    def reachable(self, timeout_s: float) -> bool:
        """Returns whether a broker answers. Blocks up to `timeout_s`."""
        try:
            return bool(self._producer.list_topics(timeout=timeout_s).brokers)
        except KafkaException:
            return False

    def close(self, deadline_ms: int = 10_000) -> None:
        """Flushes and stops; what then has no acknowledgement fails. A second call does nothing."""
        if self._closed.is_set():
            return
        try:
            self.flush(deadline_ms)
        finally:
            self._closed.set()
            self._poller.join(5 * POLL_S)
            self._producer.purge()
            self._producer.poll(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _say(self, error: KafkaError) -> None:
        """Logs the cluster's trouble, now and then; a record's own is in its future."""
        if error.fatal() or time.monotonic() - self._said_s >= SAY_EVERY_S:
            self._said_s = time.monotonic()
            logger.error("Kafka producer in trouble", extra={"cause": error.str()})

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(POLL_S)

    def _reporter(
        self, future: Future[Delivered], topic: str, identity: str
    ) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._fail(future, topic, identity, error.str())
            else:
                self._succeed(future, topic, message)

        return report

    def _succeed(self, future: Future[Delivered], topic: str, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        delivered = Delivered(
            topic=topic,
            partition=-1 if partition is None else partition,
            offset=-1 if offset is None else offset,
            append_ms=message.timestamp()[1],
        )
        metrics.PRODUCED.labels(topic=topic).inc()
        if future.set_running_or_notify_cancel():  # the caller may have cancelled its wait
            future.set_result(delivered)
        self._settled(future)

    def _fail(self, future: Future[Delivered], topic: str, identity: str, cause: str) -> None:
        metrics.UNDELIVERED.labels(topic=topic).inc()
        if future.set_running_or_notify_cancel():
            future.set_exception(UndeliveredRecord(topic=topic, identity=identity, cause=cause))
        self._settled(future)

    def _settled(self, future: Future[Delivered]) -> None:
        """Forgets a future, after its callbacks: whoever flushed then knows what they noted."""
        with self._lock:
            self._pending.pop(future, None)


class ActionProducer:
    """What a Python event producer needs: actions and erasures to `actions`, keyed by user.

    Every action sent is either acknowledged or named: by its future, and once more by the next
    `flush` or `close`. What is named may be in Kafka all the same; send it again with its
    `event_id`, which changes nothing downstream. Thread-safe.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        client_id: str = "oxygenrec-python",
        delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS,
        buffered_records: int = BUFFERED_RECORDS,
    ) -> None:
        """Connects in the background; `buffered_records` is how many may wait for Kafka."""
        self._records = RecordProducer(
            KafkaConfig(bootstrap=bootstrap),
            client_id,
            delivery_timeout_ms=delivery_timeout_ms,
            buffered_records=buffered_records,
        )
        self._source = f"/{client_id}"
        self._bound = buffered_records
        self._lock = threading.Lock()
        self._failed: dict[str, str] = {}  # event id -> cause, until a flush has named it

    def send(self, action: UserAction | UserErased) -> Future[Delivered]:
        """Queues one action, without waiting; its future raises `UndeliveredRecord`.

        Raises `UndeliveredRecords` when as many as the buffer holds have failed and no flush has
        asked for them: a producer that looks at nothing must not lose them in silence.
        """
        if len(self._failed) >= self._bound:
            self._raise_undelivered((), 0)
        headers = cloud_event_headers(action, self._source)
        future = self._records.send(topics.ACTIONS, action, action.user_id, headers=headers)
        future.add_done_callback(lambda done: self._note(action.event_id, done))
        return future

    def flush(self, deadline_ms: int) -> None:
        """Waits for every acknowledgement.

        Raises `UndeliveredRecords` naming the event ids that failed since the last flush, and those
        without a report at the deadline.
        """
        waiting: Sequence[str] = ()
        try:
            self._records.flush(deadline_ms)
        except UndeliveredRecords as error:
            waiting = error.identities
        self._raise_undelivered(waiting, deadline_ms)

    def close(self, deadline_ms: int = 10_000) -> None:
        """Flushes and stops. Raises `UndeliveredRecords`, as `flush` does."""
        with suppress(UndeliveredRecords):  # by now its records have failed, and are named below
            self._records.close(deadline_ms)
        self._raise_undelivered(self._records.unacknowledged(), deadline_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _note(self, event_id: str, done: Future[Delivered]) -> None:
        error = None if done.cancelled() else done.exception()
        with self._lock:
            if isinstance(error, UndeliveredRecord):
                self._failed[event_id] = error.cause
            else:
                self._failed.pop(event_id, None)  # sent again, and there

    def _raise_undelivered(self, waiting: Sequence[str], deadline_ms: int) -> None:
        with self._lock:
            failed, self._failed = self._failed, {}
        if named := list(dict.fromkeys((*failed, *waiting))):
            causes = dict.fromkeys(failed.values())
            cause = "; ".join(list(causes)[:3]) or "no report from Kafka"
            raise UndeliveredRecords(identities=named, deadline_ms=deadline_ms, cause=cause)


def identity_of(record: msgspec.Struct | bytes | None, key: str | bytes | None) -> str:
    """Returns the name by which a producer knows its record again: its own id, else its key."""
    for name in IDENTITIES:
        if value := getattr(record, name, None):
            return str(value)
    return (key.decode(errors="replace") if isinstance(key, bytes) else key) or "without a key"
