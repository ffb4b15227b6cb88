"""The embedded broker: the byte guard, and a round trip."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from schemas.topics import REWARDS, topic_table
from streams.local.errors import TopicMismatch
from streams.local.mock_cluster import RECORD_OVERHEAD_BYTES, ByteGuard
from streams.local.mock_kafka import MockKafka


def test_the_guard_warns_once_when_a_partition_reaches_its_limit() -> None:
    guard = ByteGuard(warn_bytes=3 * (1000 + RECORD_OVERHEAD_BYTES))
    warnings = [guard.count("actions", 1, 1000) for _ in range(5)]
    assert [bool(warning) for warning in warnings] == [False, False, True, False, False]
    assert "actions[1] holds" in str(warnings[2])


def test_the_guard_counts_each_partition_by_itself() -> None:
    guard = ByteGuard(warn_bytes=2000)
    assert not guard.count("actions", 0, 1200)
    assert not guard.count("actions", 1, 1200)
    assert not guard.count("rewards", 0, 1200)
    assert guard.count("rewards", 0, 1200)


def test_the_guard_reports_dropped_records_whenever_more_have_gone() -> None:
    guard = ByteGuard()
    assert guard.observe_start("actions", 0, 0) is None
    assert "dropped its first 7 records" in str(guard.observe_start("actions", 0, 7))
    assert guard.observe_start("actions", 0, 7) is None
    assert "dropped its first 9 records" in str(guard.observe_start("actions", 0, 9))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockKafka]:
    with MockKafka(tmp_path_factory.mktemp("mock")) as broker:
        broker.ensure_topics(topic_table(4))
        yield broker


@pytest.mark.integration
def test_it_creates_the_topic_table_with_its_partition_counts(broker: MockKafka) -> None:
    found = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
    assert {name: len(topic.partitions) for name, topic in found.items()} == {
        topic.name: topic.partitions for topic in topic_table(4)
    }
    with pytest.raises(TopicMismatch):
        broker.ensure_topics(topic_table(5))


@pytest.mark.integration
def test_a_record_goes_through_it_and_it_says_that_nothing_is_durable(broker: MockKafka) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
    producer.produce("actions", b"value", b"key")
    assert producer.flush(10) == 0
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe(["actions"])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    assert (message.key(), message.value()) == (b"key", b"value")
    assert not broker.durable
    assert "NO DURABILITY" in broker.process.log.read_text()


@pytest.mark.integration
def test_records_beyond_the_limit_are_reported_as_lost(tmp_path: Path) -> None:
    with MockKafka(tmp_path) as broker:
        broker.ensure_topics(topic_table(4))
        producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
        for _ in range(7000):
            producer.produce(REWARDS, b"x" * 1000)
        assert producer.flush(20) == 0
        broker.process.wait_ready(lambda: len(broker.warnings) >= 2, timeout_s=20)
        assert any("rewards[0] holds" in warning for warning in broker.warnings)
        assert any("rewards[0] has dropped" in warning for warning in broker.warnings)
