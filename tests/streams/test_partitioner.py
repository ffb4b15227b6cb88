"""One key, one partition, whichever client produces: Java's murmur2 in three clients and here."""

import random
from operator import attrgetter
from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import Message, Producer

from agents.faust_app import build_app
from streams.connections import KafkaConfig
from streams.partitioner import murmur2, partition_of
from streams.producer import producer_config

PARTITIONS = 4  # what the embedded broker gives a topic it does not know


def keys(count: int = 1_000) -> list[str]:
    rng = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-_:é日"
    return ["".join(rng.choices(letters, k=rng.randint(1, 40))) for _ in range(count)]


@pytest.mark.parametrize(
    ("key", "hashed"),
    [  # Kafka's own UtilsTest
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_the_numbers_of_javas_client(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0xFFFFFFFF


def test_aiokafkas_default_partitioner_agrees_on_1000_keys() -> None:
    everywhere = list(range(PARTITIONS))
    theirs = [DefaultPartitioner()(key.encode(), everywhere, everywhere) for key in keys()]
    assert theirs == [partition_of(key.encode(), PARTITIONS) for key in keys()]


def test_faust_leaves_the_partition_to_aiokafkas_default() -> None:
    app = build_app(KafkaConfig(), Path("unused"))
    partitioner = attrgetter("producer_partitioner")  # Faust types the setting as a method
    assert partitioner(app.conf) is None


def test_our_confluent_producer_agrees_on_1000_keys() -> None:
    config = producer_config(KafkaConfig(bootstrap=""), "partitioner-test", 10_000)
    placed: dict[str, int | None] = {}

    def report(error: object, message: Message) -> None:
        key = message.key()
        if error is None and key is not None:
            placed[key.decode()] = message.partition()

    producer = Producer(config | {"test.mock.num.brokers": 1, "bootstrap.servers": ""})
    for key in keys():
        producer.produce("partitioner-test", key=key.encode(), value=b"", on_delivery=report)
    assert producer.flush(20) == 0
    assert placed == {key: partition_of(key.encode(), PARTITIONS) for key in set(keys())}
