"""Consumers of a group for asyncio workers, and offsets that are committed in order.

`OffsetTracker` lets a worker finish records out of order (an LLM call takes seconds) and yet never
commit past one that is not finished.
"""

import heapq
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from streams.connections import METADATA_MAX_AGE_MS, KafkaConfig
from streams.lag import Lags

SESSION_TIMEOUT_MS = 10_000  # a killed worker's partitions move after this long
HEARTBEAT_MS = 3_000
# Kafka answers a connection's requests in turn: a question about offsets waits behind a fetch that
# found nothing. With aiokafka's 500 ms the reward joiner, which asks three a partition when it
# starts, stood still for 6 s with 4 partitions (docs/benchmarks.md, recovery).
FETCH_WAIT_MS = 100


class SoleAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka is untyped
    """Gives every partition to one member: one writes, the others stand by to take over."""

    name = "oxygenrec-sole"
    version = 0

    @classmethod
    def assign(
        cls, cluster: Any, members: dict[str, Any]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Returns all partitions for the member with the smallest id, none for the others."""
        writer = min(members)
        places = [
            (topic, sorted(cluster.partitions_for_topic(topic) or ()))
            for topic in sorted(members[writer].subscription)
        ]
        return {
            member: ConsumerProtocolMemberAssignment(
                cls.version, places if member == writer else [], b""
            )
            for member in members
        }

    @classmethod
    def metadata(cls, topics: Any) -> ConsumerProtocolMemberMetadata:
        """Returns what a member tells the others: its topics."""
        return ConsumerProtocolMemberMetadata(cls.version, list(topics), b"")

    @classmethod
    def on_assignment(cls, assignment: Any) -> None:
        """Keeps nothing of an assignment."""


class GroupConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka is untyped
    """A member of a group that tells how far it is behind (`oxygenrec_lag_records`)."""

    def __init__(self, worker: str, **config: Any) -> None:
        super().__init__(**config)
        self._lags = Lags(worker, self._end_of)
        self._fetched: dict[TopicPartition, int] = {}

    async def getmany(
        self, *partitions: TopicPartition, **options: Any
    ) -> dict[TopicPartition, list[Any]]:
        """Fetches as aiokafka does."""
        fetched: dict[TopicPartition, list[Any]] = await super().getmany(*partitions, **options)
        self._lags.keep_only({(place.topic, place.partition) for place in self.assignment()})
        for place, messages in fetched.items():
            self._lags.begin(place.topic, place.partition, messages[0].offset)
            self._fetched[place] = messages[-1].offset + 1
        return fetched

    async def commit(self, offsets: dict[TopicPartition, int] | None = None) -> None:
        """Commits as aiokafka does: `offsets`, or all that was fetched."""
        fetched, self._fetched = self._fetched, {}
        await super().commit(offsets)
        for place, offset in (fetched if offsets is None else offsets).items():
            self._lags.finish(place.topic, place.partition, offset)

    def _end_of(self, topic: str, partition: int) -> int | None:
        end: int | None = self.highwater(TopicPartition(topic, partition))
        return end


def group_consumer(
    kafka: KafkaConfig, group: str, worker: str, *, sole_writer: bool = False
) -> AIOKafkaConsumer:
    """Returns a consumer that commits nothing by itself; subscribe, then start it.

    Partition p of all its topics is one member's: the range assignor and equal counts see to it.
    """
    return GroupConsumer(
        worker,
        bootstrap_servers=kafka.bootstrap,
        client_id=group,
        group_id=group,
        group_instance_id=kafka.group_instance_id(worker),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        fetch_max_wait_ms=FETCH_WAIT_MS,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        check_crcs=kafka.check_crcs,
        partition_assignment_strategy=[SoleAssignor if sole_writer else RangePartitionAssignor],
    )


class OffsetTracker:
    """Positions of one consumer: of each partition, the offset before which all is finished."""

    def __init__(self) -> None:
        self._begun: dict[TopicPartition, list[int]] = {}
        self._finished: dict[TopicPartition, set[int]] = {}
        self._positions: dict[TopicPartition, int] = {}

    def begin(self, place: TopicPartition, offset: int) -> None:
        """Notes that a record is in hand."""
        heapq.heappush(self._begun.setdefault(place, []), offset)

    def finish(self, place: TopicPartition, offset: int) -> None:
        """Notes that all effects of a record are acknowledged; ignored for a lost partition."""
        begun = self._begun.get(place)
        if begun is None:
            return
        finished = self._finished.setdefault(place, set())
        finished.add(offset)
        while begun and begun[0] in finished:
            done = heapq.heappop(begun)
            finished.discard(done)
            self._positions[place] = done + 1

    def take_positions(self) -> dict[TopicPartition, int]:
        """Returns the positions that moved since the last call: what is to be committed."""
        positions, self._positions = self._positions, {}
        return positions

    def drop(self, places: Sequence[TopicPartition]) -> None:
        """Forgets partitions that another member goes on with."""
        for place in places:
            self._begun.pop(place, None)
            self._finished.pop(place, None)
            self._positions.pop(place, None)


class TrackedPartitions(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Drops what was tracked whenever the group rebalances: the committed offsets decide anew."""

    def __init__(self, tracker: OffsetTracker) -> None:
        self._tracker = tracker

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Forgets the revoked partitions."""
        self._tracker.drop(list(revoked))

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Starts from the committed offsets."""
