"""A real Kafka on loopback: its properties, its topics, and what a kill -9 costs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented, not in __all__
    AdminClient,
    ConfigResource,
    ResourceType,
)

from schemas.topics import TOPICS, Topic, topic_table
from streams.local.broker import missing_topics
from streams.local.errors import TopicMismatch
from streams.local.guardian import start_mark
from streams.local.kafka import LocalKafka, node_properties
from streams.local.ports import LOOPBACK


def test_every_listener_is_on_loopback() -> None:
    properties = node_properties(1, ports=[9092], controller_ports=[9093], data=Path("data"))
    assert properties["listeners"] == f"PLAINTEXT://{LOOPBACK}:9092,CONTROLLER://{LOOPBACK}:9093"
    assert properties["advertised.listeners"] == f"PLAINTEXT://{LOOPBACK}:9092"
    assert properties["auto.create.topics.enable"] == "false"


def test_clients_may_be_sent_elsewhere_while_nodes_reach_each_other_directly() -> None:
    properties = node_properties(
        1,
        ports=[9092],
        controller_ports=[9093],
        data=Path("data"),
        advertised_ports=[9192],
        replication_ports=[9094],
    )
    between_nodes = f"REPLICATION://{LOOPBACK}:9094"
    assert f"PLAINTEXT://{LOOPBACK}:9092,{between_nodes}," in properties["listeners"]
    assert properties["advertised.listeners"] == f"PLAINTEXT://{LOOPBACK}:9192,{between_nodes}"
    assert properties["inter.broker.listener.name"] == "REPLICATION"


@pytest.mark.parametrize(
    ("nodes", "replication", "in_sync"), [(1, "1", "1"), (2, "2", "1"), (3, "3", "2")]
)
def test_three_nodes_replicate_three_times_and_survive_the_loss_of_one(
    nodes: int, replication: str, in_sync: str
) -> None:
    ports = list(range(9001, 9001 + nodes))
    properties = node_properties(nodes, ports=ports, controller_ports=ports, data=Path("data"))
    assert properties["default.replication.factor"] == replication
    assert properties["transaction.state.log.replication.factor"] == replication
    assert properties["min.insync.replicas"] == in_sync
    assert len(properties["controller.quorum.voters"].split(",")) == nodes


def test_a_topic_with_another_partition_count_is_refused_by_name() -> None:
    topic = Topic(name="actions", key="user", partitions=12)
    with pytest.raises(TopicMismatch, match="actions has 4 partitions, wanted 12"):
        missing_topics({"actions": 4}, [topic])
    assert missing_topics({"actions": 12}, [topic]) == []
    assert missing_topics({}, [topic]) == [topic]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A broker of this file alone: its tests kill it."""
    with LocalKafka(tmp_path_factory.mktemp("own-kafka")) as broker:
        yield broker


def produce(bootstrap: str, topic: str, values: list[bytes]) -> list[bytes]:
    """Returns the values that were acknowledged."""
    acknowledged: list[bytes] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0})

    def delivered(error: KafkaError | None, message: Message[bytes, bytes]) -> None:
        if error is None:
            acknowledged.append(message.value() or b"")

    for value in values:
        producer.produce(topic, value, on_delivery=delivered)
    producer.flush(20)
    return acknowledged


def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        messages = [consumer.poll(20) for _ in range(count)]
    finally:
        consumer.close()
    return [message.value() or b"" for message in messages if message is not None]


@pytest.mark.integration
def test_the_topic_table_exists_with_its_partitions_and_configuration(broker: LocalKafka) -> None:
    table = topic_table(4)
    broker.ensure_topics(table)
    broker.ensure_topics(table)  # nothing is missing now
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    found = admin.list_topics(timeout=10).topics
    assert {topic.name: topic.partitions for topic in table} == {
        name: len(topic.partitions) for name, topic in found.items() if not name.startswith("__")
    }
    resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in table]
    described = admin.describe_configs(resources)
    for topic, resource in zip(table, resources, strict=True):
        config = described[resource].result()
        for key, value in topic.kafka_config().items():
            assert config[key].value == value, f"{topic.name} {key}"
    with pytest.raises(TopicMismatch):
        broker.ensure_topics(TOPICS)


@pytest.mark.integration
def test_an_unknown_topic_is_refused_not_created(broker: LocalKafka) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "message.timeout.ms": 3000})
    errors: list[KafkaError | None] = []
    producer.produce("misspelt", b"x", on_delivery=lambda error, _: errors.append(error))
    producer.flush(10)
    assert errors[0] is not None  # `!=` on a KafkaError leaves an exception behind
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    assert "misspelt" not in admin.list_topics(timeout=10).topics


@pytest.mark.integration
def test_acknowledged_records_survive_kill_9_and_a_new_start(broker: LocalKafka) -> None:
    name = f"survivors-{uuid.uuid4().hex[:8]}"
    broker.ensure_topics([Topic(name=name, key="-", partitions=1)])
    sent = [f"record {i}".encode() for i in range(500)]
    assert produce(broker.bootstrap, name, sent) == sent
    broker.kill()
    assert not broker.processes[0].alive
    broker.restart()
    assert read(broker.bootstrap, name, len(sent)) == sent


@pytest.mark.integration
def test_a_folder_is_started_again_with_its_records(tmp_path: Path, broker: LocalKafka) -> None:
    topic = Topic(name="kept", key="-", partitions=1)
    first = LocalKafka(tmp_path).start()
    try:
        first.ensure_topics([topic])
        assert produce(first.bootstrap, "kept", [b"before"]) == [b"before"]
    finally:
        first.close()
    with LocalKafka(tmp_path) as second:
        assert second.bootstrap != first.bootstrap
        second.ensure_topics([topic])
        assert read(second.bootstrap, "kept", 1) == [b"before"]


@pytest.mark.integration
def test_three_nodes_go_on_without_one(tmp_path: Path, broker: LocalKafka) -> None:
    with LocalKafka(tmp_path, nodes=3) as cluster:
        cluster.ensure_topics([Topic(name="kept", key="-", partitions=1)])
        assert produce(cluster.bootstrap, "kept", [b"before"]) == [b"before"]
        cluster.kill(2)
        assert produce(cluster.bootstrap, "kept", [b"after"]) == [b"after"]
        cluster.restart(2)
        assert read(cluster.bootstrap, "kept", 2) == [b"before", b"after"]


@pytest.mark.integration
def test_leaving_the_context_leaves_no_process_and_no_data(
    tmp_path: Path, broker: LocalKafka
) -> None:
    with LocalKafka(tmp_path) as own:
        pid = own.processes[0].pid
        assert start_mark(pid)
    assert start_mark(pid) is None
    assert not (tmp_path / "1" / "data").exists()
    admin = AdminClient({"bootstrap.servers": own.bootstrap, "log_level": 0})
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=1)
