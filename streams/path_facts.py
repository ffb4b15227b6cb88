"""What Kafka knows about the near-line path, partition by partition: ends, places, watermarks.

It only reads: committed offsets, members, and the last records of `actions` and
`high-value-actions` by plain assignment. It joins no group.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas import topics
from schemas.actions import ActionRecord, HighValueRecord, UserAction, Watermark
from schemas.codec import RECORDS, Decoder
from schemas.errors import InvalidRecord
from streams.admin import REQUEST_TIMEOUT_S
from streams.connections import KafkaConfig

TAIL_RECORDS = 200  # a watermark a second: two hundred records hold one unless a backlog is routed
LONGEST_TAIL = 20_000  # then this many, and then none is known
READ_TIMEOUT_S = 5.0
RETRY_S = 0.2
POLL_S = 0.05  # `consume` waits this long for a thousand records

_action: Decoder[ActionRecord] = Decoder(RECORDS[topics.ACTIONS])
_high_value: Decoder[HighValueRecord] = Decoder(RECORDS[topics.HIGH_VALUE_ACTIONS])

Places = dict[int, int]  # an offset by partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A worker on the path: its consumer group, and the topic that it reads."""

    worker: str
    group: str
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A time that a record carries, and when the broker appended the record."""

    time_ms: int
    append_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """One partition of the path; `lag` in records by worker.

    `newest`: the largest event time among the last 200 actions. `last`: the last action.
    `announced`: the router's last watermark. `applied`: the last one behind which the aggregator
    has committed. None where the log holds no such record.
    """

    partition: int
    newest: Seen | None
    last: Seen | None
    announced: Seen | None
    applied: Seen | None
    lag: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFacts:
    """All partitions; how many members each worker has (None: the broker cannot say)."""

    partitions: Sequence[PartitionFacts]
    members: Mapping[str, int | None]


def read_path(kafka: KafkaConfig, stages: Sequence[Stage]) -> PathFacts:
    """Returns what Kafka knows now. Raises KafkaException. Blocks: a second for 12 partitions."""
    reader = _TailReader(kafka)
    try:
        lags, read_to = {}, {}
        for stage in stages:
            first, end = reader.bounds(stage.topic)
            committed = _committed(kafka, stage)
            read_to[stage.topic] = {p: max(committed[p], first[p]) for p in end}
            lags[stage.worker] = {p: end[p] - read_to[stage.topic][p] for p in end}
        actions = reader.last_actions(reader.bounds(topics.ACTIONS)[1])
        announced = reader.last_watermarks(reader.bounds(topics.HIGH_VALUE_ACTIONS)[1])
        applied = reader.last_watermarks(read_to.get(topics.HIGH_VALUE_ACTIONS, {}))
    finally:
        reader.close()
    partitions = [
        PartitionFacts(
            partition=p,
            newest=max(actions.get(p, ()), key=lambda seen: seen.time_ms, default=None),
            last=actions[p][-1] if actions.get(p) else None,
            announced=announced.get(p),
            applied=applied.get(p),
            lag={worker: lag[p] for worker, lag in lags.items()},
        )
        for p in range(kafka.partitions)
    ]
    return PathFacts(partitions=partitions, members=_members(kafka, stages))


def _committed(kafka: KafkaConfig, stage: Stage) -> Places:
    """Returns a negative offset where the group has never committed.

    By a consumer: the admin client's question ended the process (confluent-kafka 2.16.1, SIGSEGV).
    """
    consumer = Consumer(_client(kafka, stage.group))
    places = [TopicPartition(stage.topic, p) for p in range(kafka.partitions)]
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    try:
        while True:
            try:
                found = consumer.committed(places, timeout=REQUEST_TIMEOUT_S)
            except KafkaException:  # a young broker's coordinator is not there yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)
            else:
                return {place.partition: place.offset for place in found}
    finally:
        consumer.close()


def _members(kafka: KafkaConfig, stages: Sequence[Stage]) -> dict[str, int | None]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    groups = sorted({stage.group for stage in stages})
    asked = admin.describe_consumer_groups(groups, request_timeout=REQUEST_TIMEOUT_S)
    found: dict[str, int | None] = {}
    for group, answer in asked.items():
        try:
            found[group] = len(answer.result().members)
        except KafkaException:  # the embedded mock broker does not know the question
            found[group] = None
    return {stage.worker: found[stage.group] for stage in stages}


def _client(kafka: KafkaConfig, group: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": kafka.bootstrap,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "check.crcs": kafka.check_crcs,
        "fetch.wait.max.ms": 50,
        "log_level": 0,
    }


class _TailReader:
    """Reads the last records of partitions by plain assignment."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._partitions = kafka.partitions
        # librdkafka wants a group; nothing is committed to it
        self._consumer = Consumer(_client(kafka, "oxygenrec-status"))

    def close(self) -> None:
        self._consumer.close()

    def bounds(self, topic: str) -> tuple[Places, Places]:
        """Returns the earliest offset and the end (one past the last record) by partition."""
        first, end = {}, {}
        for partition in range(self._partitions):
            place = TopicPartition(topic, partition)
            low, high = self._consumer.get_watermark_offsets(place, timeout=REQUEST_TIMEOUT_S)
            first[partition], end[partition] = low, high
        return first, end

    def last_actions(self, ends: Places) -> dict[int, list[Seen]]:
        """Returns the last actions before `ends`, in the log's order."""
        found: dict[int, list[Seen]] = {}
        for message in self._tails(topics.ACTIONS, ends, TAIL_RECORDS):
            record = _decoded(_action, message)
            if isinstance(record, UserAction):
                found.setdefault(_partition(message), []).append(
                    _seen(message, record.event_time_ms)
                )
        return found

    def last_watermarks(self, ends: Places) -> dict[int, Seen]:
        """Returns the largest watermark before each of `ends`, where one is near."""
        found: dict[int, Seen] = {}
        for length in (TAIL_RECORDS, LONGEST_TAIL):
            missing = {p: end for p, end in ends.items() if p not in found and end > 0}
            for message in self._tails(topics.HIGH_VALUE_ACTIONS, missing, length):
                record = _decoded(_high_value, message)
                if not isinstance(record, Watermark):
                    continue
                seen, partition = _seen(message, record.watermark_ms), _partition(message)
                if partition not in found or seen.time_ms >= found[partition].time_ms:
                    found[partition] = seen
        return found

    def _tails(self, topic: str, ends: Places, length: int) -> list[Message]:
        """Returns the records of [end - length, end) of each partition, as far as they are kept."""
        wanted = {p: end for p, end in ends.items() if end > 0}
        if not wanted:
            return []
        self._consumer.assign(
            [TopicPartition(topic, p, max(0, end - length)) for p, end in wanted.items()]
        )
        found: list[Message] = []
        deadline = time.monotonic() + READ_TIMEOUT_S  # what expires meanwhile never comes
        while wanted and time.monotonic() < deadline:
            for message in self._consumer.consume(1_000, POLL_S):
                partition, offset = message.partition(), message.offset()
                if message.error() is not None or partition is None or offset is None:
                    continue
                if offset < ends[partition]:
                    found.append(message)
                if offset >= ends[partition] - 1:
                    wanted.pop(partition, None)
        return found


def _decoded(decoder: Decoder[Any], message: Message) -> Any:
    try:
        return decoder.decode(message.value() or b"")
    except InvalidRecord:  # a dead letter, somebody else's matter
        return None


def _seen(message: Message, time_ms: int) -> Seen:
    return Seen(time_ms=time_ms, append_ms=int(message.timestamp()[1]))


def _partition(message: Message) -> int:
    partition = message.partition()
    assert partition is not None
    return partition
