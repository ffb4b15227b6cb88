"""Sends what cannot be used to `dead-letters`: the original bytes, the reason, and the source."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from schemas import topics
from schemas.dead_letters import DeadLetter, Reason, Rejection
from schemas.errors import InvalidRecord
from streams import metrics
from streams.cloud_events import Headers
from streams.producer import Delivered, RecordProducer

logger = logging.getLogger(__name__)

# In base64, much more would pass the producer's limit of 1 MB, and poison would stall a partition.
MAX_VALUE_BYTES = 524_288


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One record as it lay in its topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


def rejection_of(error: InvalidRecord) -> Rejection:
    """Returns a decoding error as the rejection that travels."""
    return Rejection(
        reason=Reason(error.reason), field=error.field, found=error.found, wanted=error.wanted
    )


def failure(error: Exception) -> Rejection:
    """Returns the rejection of a record that is well formed and yet made a worker fail."""
    found = f"{type(error).__name__}: {error}"[:500]
    return Rejection(
        reason=Reason.FAILED, field="$", found=found, wanted="a record this worker can use"
    )


def dead_letter(source: Source, rejection: Rejection, *, worker: str, now_ms: int) -> DeadLetter:
    """Returns the letter; of a value beyond 512 KiB it holds the first 512 KiB."""
    return DeadLetter(
        rejection=rejection,
        topic=source.topic,
        partition=source.partition,
        offset=source.offset,
        key=source.key,
        value=(source.value or b"")[:MAX_VALUE_BYTES],
        worker=worker,
        attempts=1,
        dead_ms=now_ms,
    )


def count_letter(source: Source, rejection: Rejection, *, worker: str) -> None:
    """Counts one dead letter in the metrics; the log says at DEBUG which."""
    labels = {"worker": worker, "topic": source.topic, "reason": rejection.reason.value}
    metrics.DEAD_LETTERS.labels(**labels).inc()
    logger.debug("record refused", extra={"source": source, "rejection": rejection})


class DeadLetters:
    """The dead letters of one worker; each is acknowledged before its record is committed."""

    def __init__(self, producer: RecordProducer, worker: str, now_ms: Callable[[], int]) -> None:
        self._producer = producer
        self._worker = worker
        self._now_ms = now_ms

    def send(self, source: Source, rejection: Rejection) -> Future[Delivered]:
        """Queues a dead letter; the future is its acknowledgement."""
        count_letter(source, rejection, worker=self._worker)
        letter = dead_letter(source, rejection, worker=self._worker, now_ms=self._now_ms())
        return self._producer.send(topics.DEAD_LETTERS, letter, None)
