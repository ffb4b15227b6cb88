"""The log reader on a real broker: exact ranges, the present end, expired offsets, following."""

import asyncio
import uuid

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.topics import Topic
from streams.connections import KafkaConfig
from streams.local.kafka import LocalKafka
from streams.log_reader import LogReader, LogReadTimeout, OffsetExpired

pytestmark = pytest.mark.integration


def filled_topic(kafka: LocalKafka, records: int) -> tuple[KafkaConfig, str]:
    name = f"log-{uuid.uuid4().hex[:8]}"
    kafka.ensure_topics([Topic(name=name, key="-", partitions=1)])
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(records):
        producer.produce(name, str(number).encode(), partition=0)
    assert producer.flush(10) == 0
    return KafkaConfig(bootstrap=kafka.bootstrap), name


async def test_a_range_is_read_exactly(kafka: LocalKafka) -> None:
    config, name = filled_topic(kafka, 50)
    async with LogReader(config, name) as log:
        assert await log.bounds() == (0, 50)
        assert [r.value for r in await log.read(10, 13)] == [b"10", b"11", b"12"]
        assert [r.offset for r in await log.read()] == list(range(50))
        assert await log.read(50) == []


async def test_a_range_beyond_the_end_fails_at_its_deadline(kafka: LocalKafka) -> None:
    config, name = filled_topic(kafka, 3)
    async with LogReader(config, name) as log:
        with pytest.raises(LogReadTimeout) as caught:
            await log.read(0, 4, deadline_ms=500)
    assert (caught.value.position, caught.value.wanted) == (3, 4)


async def test_an_expired_offset_is_an_error_not_a_jump(kafka: LocalKafka) -> None:
    config, name = filled_topic(kafka, 20)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for deleted in admin.delete_records([TopicPartition(name, 0, 8)]).values():
        deleted.result(10)
    async with LogReader(config, name) as log:
        with pytest.raises(OffsetExpired) as caught:
            await log.read(5, 10)
        assert caught.value.earliest == 8
        assert [r.offset for r in await log.read(None, 10)] == [8, 9]


async def test_a_time_is_found_and_a_scan_yields_what_is_read(kafka: LocalKafka) -> None:
    config, name = filled_topic(kafka, 5)
    async with LogReader(config, name) as log:
        records = await log.read()
        assert [record async for record in log.scan(1, 4)] == records[1:4]
        assert await log.offset_at(records[0].timestamp_ms) == 0
        assert await log.offset_at(records[4].timestamp_ms + 60_000) == 5


async def test_following_yields_what_is_there_and_what_comes(kafka: LocalKafka) -> None:
    config, name = filled_topic(kafka, 5)
    async with LogReader(config, name) as log, asyncio.timeout(20):
        seen: list[int] = []
        async for record in log.follow(3):
            seen.append(record.offset)
            if record.offset == 4:
                producer = Producer({"bootstrap.servers": kafka.bootstrap})
                producer.produce(name, b"later", partition=0)
                assert producer.flush(10) == 0
            if record.offset == 5:
                break
    assert seen == [3, 4, 5]
