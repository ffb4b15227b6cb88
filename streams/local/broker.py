"""What a Kafka broker of this machine offers, whichever program it is; and the topics it needs.

Only this package makes administrative requests: the application finds its topics there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, Protocol

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented, not in __all__
    AdminClient,
    NewTopic,
    OffsetSpec,
)

from schemas.topics import Topic
from streams.local.errors import BrokerUnreachable, TopicMismatch

REQUEST_TIMEOUT_S = 10.0
LEADER_TIMEOUT_S = 30.0  # three nodes that just elected a controller need 1-2 s


class Broker(Protocol):
    """A Kafka-protocol broker on loopback."""

    @property
    def bootstrap(self) -> str:
        """The addresses a client starts from: `host:port,host:port`."""

    @property
    def kind(self) -> Literal["kafka", "mock"]:
        """The real broker, or librdkafka's embedded one."""

    @property
    def check_crcs(self) -> bool:
        """Whether consumers may verify checksums (aiokafka and Faust: `check_crcs`)."""

    @property
    def replication(self) -> int:
        """Copies of each partition."""

    @property
    def durable(self) -> bool:
        """Whether an acknowledged record survives a crash of the broker."""

    def ensure_topics(self, table: Sequence[Topic]) -> None:
        """Creates the missing topics and returns when their leaders answer."""

    def close(self) -> None:
        """Stops the broker and everything it started."""


def admin_client(bootstrap: str) -> AdminClient:
    """Returns an admin client that keeps its connection errors to itself while a broker starts."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def partition_counts(admin: AdminClient, bootstrap: str) -> dict[str, int]:
    """Returns topic -> partitions; raises BrokerUnreachable."""
    try:
        metadata = admin.list_topics(timeout=REQUEST_TIMEOUT_S)
    except KafkaException as error:
        raise BrokerUnreachable(
            bootstrap=bootstrap, request="list topics", cause=str(error)
        ) from error
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def missing_topics(found: dict[str, int], table: Sequence[Topic]) -> list[Topic]:
    """Returns the topics that do not exist yet; raises TopicMismatch for another count."""
    for topic in table:
        if topic.name in found and found[topic.name] != topic.partitions:
            raise TopicMismatch(topic=topic.name, found=found[topic.name], wanted=topic.partitions)
    return [topic for topic in table if topic.name not in found]


def create_topics(bootstrap: str, table: Sequence[Topic], *, replication: int) -> None:
    """Creates the missing topics with their configuration and waits until every leader answers.

    CreateTopics returns before that; a producer that starts in between would wait for a refresh.
    Raises TopicMismatch, BrokerUnreachable.
    """
    admin = admin_client(bootstrap)
    missing = missing_topics(partition_counts(admin, bootstrap), table)
    created = (
        admin.create_topics(
            [
                NewTopic(
                    topic.name,
                    num_partitions=topic.partitions,
                    replication_factor=replication,
                    config=topic.kafka_config(),
                )
                for topic in missing
            ],
            request_timeout=REQUEST_TIMEOUT_S,
        )
        if missing
        else {}
    )
    for name, future in created.items():
        try:
            future.result()
        except KafkaException as error:
            raise BrokerUnreachable(
                bootstrap=bootstrap, request=f"create topic {name}", cause=str(error)
            ) from error
    _wait_for_leaders(bootstrap, table)


def _wait_for_leaders(bootstrap: str, table: Sequence[Topic]) -> None:
    partitions = {
        TopicPartition(topic.name, partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]
        for topic in table
        for partition in range(topic.partitions)
    }
    deadline = time.monotonic() + LEADER_TIMEOUT_S
    while partitions:
        # A client of its own each time: one that asked before a leader stood may go on saying "no
        # leaders found" after the broker's metadata names one (once in 900 topics, on busy cores).
        admin = admin_client(bootstrap)
        try:
            for future in admin.list_offsets(partitions, request_timeout=5).values():
                future.result()
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise BrokerUnreachable(
                    bootstrap=bootstrap, request="list offsets", cause=str(error)
                ) from error
            time.sleep(0.05)
        else:
            return
