"""The topic table: what the flow relies on."""

from schemas import topics
from schemas.codec import RECORDS
from schemas.topics import TOPICS, topic_table

NAMES = {topic.name: topic for topic in TOPICS}


def test_every_topic_has_a_record_and_every_record_a_topic() -> None:
    assert set(RECORDS) == set(NAMES) - {topics.WINDOW_CHANGELOG}


def test_what_is_joined_by_user_has_equal_partition_counts() -> None:
    joined = (
        *(topics.ACTIONS, topics.HIGH_VALUE_ACTIONS, topics.WINDOW_CHANGELOG),
        *(topics.INSTRUCTION_TRIGGERS, topics.IMPRESSIONS),
    )
    for table in (topic_table(), topic_table(4)):
        assert len({topic.partitions for topic in table if topic.name in joined}) == 1


def test_topics_whose_offset_is_an_order_have_one_partition_at_any_scale() -> None:
    counts = {topic.name: topic.partitions for topic in topic_table(24)}
    assert [counts[name] for name in (topics.REWARDS, topics.SEMANTIC_IDS, topics.POLICIES)] == [
        1,
        1,
        1,
    ]
    assert counts[topics.ACTIONS] == 24


def test_ingest_topics_carry_the_brokers_time() -> None:
    assert NAMES[topics.ACTIONS].kafka_config()["message.timestamp.type"] == "LogAppendTime"
    assert NAMES[topics.ACTIONS].kafka_config()["retention.ms"] == str(7 * topics.DAY_MS)


def test_the_windows_changelog_is_compacted_early_because_every_start_reads_it() -> None:
    config = NAMES[topics.WINDOW_CHANGELOG].kafka_config()
    assert config["cleanup.policy"] == "compact"
    assert int(config["segment.ms"]) <= 600_000
