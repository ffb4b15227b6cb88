"""A worker says which topics lack before it starts, and the command that mends it."""

from pathlib import Path

import pytest

from schemas import topics
from schemas.topics import topic_table
from streams.admin import BrokerSilent, TopicsDiffer, check_topics, creation
from streams.connections import KafkaConfig
from streams.local.mock_kafka import MockKafka


def test_a_missing_topic_is_named_with_the_command_that_creates_it() -> None:
    table = {topic.name: topic for topic in topic_table(4)}
    error = TopicsDiffer(bootstrap="b:1", missing=[table[topics.CATALOG]], counts={})
    assert "no topic catalog" in str(error)
    assert "`oxygenrec up`" in str(error)
    assert creation("b:1", table[topics.CATALOG]) in str(error)
    assert "--partitions 4 --config cleanup.policy=compact" in str(error)
    assert "\n" not in str(error)


def test_another_partition_count_is_named(tmp_path: Path) -> None:
    with MockKafka(tmp_path) as broker:
        broker.ensure_topics([t for t in topic_table(4) if t.name == topics.ACTIONS])
        check_topics(KafkaConfig(bootstrap=broker.bootstrap, partitions=4), [topics.ACTIONS])
        with pytest.raises(TopicsDiffer, match=r"actions with 4 partitions") as caught:
            check_topics(KafkaConfig(bootstrap=broker.bootstrap, partitions=12), [topics.ACTIONS])
        assert caught.value.counts == {topics.ACTIONS: 4}


def test_a_broker_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.admin.REQUEST_TIMEOUT_S", 0.5)
    with pytest.raises(BrokerSilent, match=r"127\.0\.0\.1:1 .*`oxygenrec up`"):
        check_topics(KafkaConfig(bootstrap="127.0.0.1:1"), [topics.ACTIONS])
