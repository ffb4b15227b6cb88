"""Compares the topics of a broker with the topic table, before a worker starts.

Kafka's clients wait silently for a topic that does not exist, and Faust ignores it: each worker
asks first.
"""

from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.errors import OxygenRecError
from schemas.topics import Topic, topic_table
from streams.connections import KafkaConfig

REQUEST_TIMEOUT_S = 10.0


class BrokerSilent(OxygenRecError):
    """No broker answers at the configured address."""

    def __init__(self, *, bootstrap: str, cause: str) -> None:
        self.bootstrap = bootstrap
        super().__init__(
            f"no Kafka broker answers at {bootstrap} ({cause}): start one with `oxygenrec up`,"
            " or set OXYGENREC_KAFKA__BOOTSTRAP"
        )


class TopicsDiffer(OxygenRecError):
    """The broker lacks topics of the table, or has them with another partition count."""

    def __init__(self, *, bootstrap: str, missing: Sequence[Topic], counts: dict[str, int]) -> None:
        self.missing = tuple(topic.name for topic in missing)
        self.counts = counts
        found = [f"no topic {topic.name}" for topic in missing]
        found += [f"{name} with {count} partitions" for name, count in counts.items()]
        remedies = [creation(bootstrap, topic) for topic in missing]
        if counts:
            remedies.append(f"OXYGENREC_KAFKA__PARTITIONS={max(counts.values())} if that is meant")
        super().__init__(
            f"{bootstrap}: found {', '.join(found)}: `oxygenrec up` creates the topics, or: "
            + " && ".join(remedies)
        )


def first_unread(kafka: KafkaConfig, group: str, topic: str, partition: int) -> int:
    """Returns the offset at which a group goes on: the committed one, else the log's start.

    Raises KafkaException. Blocks.
    """
    place = TopicPartition(topic, partition)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    try:
        [committed] = consumer.committed([place], timeout=REQUEST_TIMEOUT_S)
        earliest, _ = consumer.get_watermark_offsets(place, timeout=REQUEST_TIMEOUT_S)
        return max(committed.offset, earliest)
    finally:
        consumer.close()


def creation(bootstrap: str, topic: Topic) -> str:
    """Returns the command that creates a topic of the table."""
    config = " ".join(f"--config {key}={value}" for key, value in topic.kafka_config().items())
    return (
        f"kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {topic.name}"
        f" --partitions {topic.partitions} {config}"
    )


def check_topics(kafka: KafkaConfig, names: Sequence[str]) -> None:
    """Returns when the named topics are as in the table. Raises `TopicsDiffer`, `BrokerSilent`."""
    wanted = [topic for topic in topic_table(kafka.partitions) if topic.name in set(names)]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    try:
        found = admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics
    except KafkaException as error:
        cause = error.args[0].str() if error.args else "no reason given"
        raise BrokerSilent(bootstrap=kafka.bootstrap, cause=cause) from error
    missing = [topic for topic in wanted if topic.name not in found]
    counts = {
        topic.name: len(found[topic.name].partitions)
        for topic in wanted
        if topic.name in found and len(found[topic.name].partitions) != topic.partitions
    }
    if missing or counts:
        raise TopicsDiffer(bootstrap=kafka.bootstrap, missing=missing, counts=counts)
