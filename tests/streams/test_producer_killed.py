"""A broker killed under a producer: every action is acknowledged or named, none is lost."""

import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.codec import Decoder
from schemas.topics import topic_table
from streams.local.kafka import LocalKafka
from streams.producer import ActionProducer, Delivered, UndeliveredRecords

pytestmark = pytest.mark.integration

PARTITIONS = 4
BEFORE, AFTER = 2_000, 1_000
DELIVERY_TIMEOUT_MS = 3_000


def action(number: int) -> UserAction:
    return UserAction(
        event_id=f"e{number}",
        user_id=f"u{number % 97}",
        action=ActionType.CLICK,
        item_id="i",
        event_time_ms=1_767_225_600_000 + number,
    )


def event_ids_in(kafka: LocalKafka) -> list[str]:
    """The event ids in `actions`, partition by partition."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "reader"})
    decoder: Decoder[UserAction] = Decoder(UserAction)
    found: list[str] = []
    for partition in range(PARTITIONS):
        place = TopicPartition(topics.ACTIONS, partition, 0)
        end = end_of(consumer, place)
        consumer.assign([place])
        messages = consumer.consume(end, timeout=20) if end else []
        found += [decoder.decode(message.value() or b"").event_id for message in messages]
    consumer.close()
    return found


def end_of(consumer: Consumer, place: TopicPartition) -> int:
    """The end of a partition, once its broker leads it: one that has just started may not yet."""
    until = time.monotonic() + 30
    while True:
        try:
            return int(consumer.get_watermark_offsets(place, timeout=10)[1])
        except KafkaException as error:
            not_yet = error.args[0].code() == KafkaError.NOT_LEADER_FOR_PARTITION
            if not not_yet or time.monotonic() > until:
                raise
        time.sleep(0.1)


def acknowledged(sent: dict[str, Future[Delivered]]) -> set[str]:
    return {event for event, future in sent.items() if future.exception(30) is None}


def send_around_a_kill(kafka: LocalKafka, producer: ActionProducer) -> dict[str, Future[Delivered]]:
    """Sends without a pause; the broker dies when some are acknowledged and others are not."""
    sent: dict[str, Future[Delivered]] = {}
    for number in range(BEFORE):
        sent[f"e{number}"] = producer.send(action(number))
    sent["e0"].result(30)
    kafka.kill()
    for number in range(BEFORE, BEFORE + AFTER):
        sent[f"e{number}"] = producer.send(action(number))
    return sent


def test_every_action_is_acknowledged_or_named_and_what_is_acknowledged_is_there(
    tmp_path: Path,
) -> None:
    with LocalKafka(tmp_path / "kafka") as kafka:
        kafka.ensure_topics(topic_table(PARTITIONS))
        with ActionProducer(kafka.bootstrap, delivery_timeout_ms=DELIVERY_TIMEOUT_MS) as producer:
            sent = send_around_a_kill(kafka, producer)
            began = time.monotonic()
            with pytest.raises(UndeliveredRecords) as raised:
                producer.flush(20_000)
            assert time.monotonic() - began < 10  # all had failed before the deadline
            named, known = set(raised.value.identities), acknowledged(sent)
            assert named | known == set(sent)
            assert not named & known
            assert known
            assert len(named) >= AFTER
            kafka.restart()
            assert known <= set(event_ids_in(kafka))
            for event in named:
                producer.send(action(int(event.removeprefix("e"))))
            producer.flush(30_000)
        assert set(event_ids_in(kafka)) == set(sent)
