"""The producer against librdkafka's embedded broker: acknowledgements, deadlines, identities."""

from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.actions import ActionType, UserAction
from schemas.codec import Decoder, encode
from streams.connections import KafkaConfig
from streams.producer import (
    ActionProducer,
    RecordProducer,
    UndeliveredRecord,
    UndeliveredRecords,
    identity_of,
)

NOWHERE = "127.0.0.1:1"  # nothing listens there


def action(event_id: str, user_id: str = "u1") -> UserAction:
    return UserAction(
        event_id=event_id,
        user_id=user_id,
        action=ActionType.CLICK,
        event_time_ms=1_700_000_000_000,
        item_id="i1",
    )


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    """An embedded broker inside this process."""
    cluster = AdminClient({"bootstrap.servers": "", "test.mock.num.brokers": 1})
    brokers = cluster.list_topics(timeout=5).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    del cluster  # until here it holds the brokers


def read_all(bootstrap: str, topic: str, partition: int, count: int) -> list[tuple[bytes, bytes]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"})
    consumer.assign([TopicPartition(topic, partition, 0)])
    messages = consumer.consume(count, timeout=10)
    consumer.close()
    return [(message.key() or b"", message.value() or b"") for message in messages]


def test_an_acknowledged_record_is_in_the_log_at_the_place_the_future_names(bootstrap: str) -> None:
    with RecordProducer(KafkaConfig(bootstrap=bootstrap), "test") as producer:
        futures = [producer.send("placed", action(f"e{n}"), "u1") for n in range(50)]
        places = [future.result(10) for future in futures]
    assert {place.partition for place in places} == {places[0].partition}
    assert [place.offset for place in places] == list(range(50))
    stored = read_all(bootstrap, "placed", places[0].partition, 50)
    decoder: Decoder[UserAction] = Decoder(UserAction)
    assert [decoder.decode(value).event_id for _, value in stored] == [f"e{n}" for n in range(50)]
    assert {key for key, _ in stored} == {b"u1"}


def test_a_named_partition_overrules_the_key(bootstrap: str) -> None:
    with RecordProducer(KafkaConfig(bootstrap=bootstrap), "test") as producer:
        placed = [producer.send("named", encode(action("e")), "u1", partition=p) for p in (3, 1)]
        assert [future.result(10).partition for future in placed] == [3, 1]


def test_the_action_producer_keeps_one_user_in_one_partition(bootstrap: str) -> None:
    with ActionProducer(bootstrap) as producer:
        futures = [producer.send(action(f"e{n}", user_id="same")) for n in range(5)]
        assert len({future.result(10).partition for future in futures}) == 1


def test_a_record_without_acknowledgement_fails_with_its_identity() -> None:
    producer = RecordProducer(KafkaConfig(bootstrap=NOWHERE), "test", delivery_timeout_ms=200)
    future = producer.send("actions", action("lost-1"), "u1")
    with pytest.raises(UndeliveredRecord) as raised:
        future.result(10)
    producer.close()
    assert (raised.value.topic, raised.value.identity) == ("actions", "lost-1")


def test_a_flush_past_its_deadline_names_the_records_that_wait() -> None:
    producer = RecordProducer(KafkaConfig(bootstrap=NOWHERE), "test")
    futures = [producer.send("actions", action(f"lost-{n}"), "u1") for n in range(2)]
    with pytest.raises(UndeliveredRecords) as raised:
        producer.flush(100)
    assert raised.value.identities == ("lost-0", "lost-1")
    with pytest.raises(UndeliveredRecords):
        producer.close(0)
    assert all(isinstance(future.exception(5), UndeliveredRecord) for future in futures)
    assert producer.unacknowledged() == []


def test_a_full_buffer_fails_the_future_and_does_not_block() -> None:
    producer = RecordProducer(
        KafkaConfig(bootstrap=NOWHERE), "test", delivery_timeout_ms=500, buffered_records=2
    )
    futures = [producer.send("actions", action(f"e{n}"), "u1") for n in range(3)]
    with pytest.raises(UndeliveredRecord, match="e2 was not acknowledged"):
        futures[2].result(0)
    assert not futures[0].done()
    producer.close()


def test_a_failed_action_is_named_once_and_a_waiting_one_until_it_is_settled() -> None:
    producer = ActionProducer(NOWHERE, buffered_records=1)
    producer.send(action("waits"))
    assert producer.send(action("no-room")).done()
    with pytest.raises(UndeliveredRecords, match="see whether Kafka is up") as raised:
        producer.flush(50)
    assert set(raised.value.identities) == {"waits", "no-room"}
    assert "Queue full" in raised.value.cause
    for ask in (producer.flush, producer.close):
        with pytest.raises(UndeliveredRecords) as raised:
            ask(50)
        assert raised.value.identities == ("waits",)
    producer.close(50)


def test_a_producer_that_never_asks_is_told_when_as_many_failed_as_the_buffer_holds() -> None:
    producer = ActionProducer(NOWHERE, buffered_records=2)
    for number in range(4):  # two wait, two have no room
        producer.send(action(f"e{number}"))
    with pytest.raises(UndeliveredRecords) as raised:
        producer.send(action("e4"))
    assert raised.value.identities == ("e2", "e3")
    with pytest.raises(UndeliveredRecords, match="e0, e1"):
        producer.close(50)


def test_an_action_sent_again_is_not_named_and_its_headers_name_the_producer(
    bootstrap: str,
) -> None:
    with ActionProducer(bootstrap, client_id="till-7") as producer:
        producer._failed["again"] = "gone"
        place = producer.send(action("again")).result(10)
        producer.flush(5_000)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"})
    consumer.assign([TopicPartition(place.topic, place.partition, place.offset)])
    [message] = consumer.consume(1, timeout=10)
    consumer.close()
    headers = dict(message.headers() or ())
    assert (headers["ce_id"], headers["ce_source"]) == (b"again", b"/till-7")


def test_reachable_says_whether_a_broker_answers(bootstrap: str) -> None:
    with RecordProducer(KafkaConfig(bootstrap=bootstrap), "test") as producer:
        assert producer.reachable(5)
    with RecordProducer(KafkaConfig(bootstrap=NOWHERE), "test") as producer:
        assert not producer.reachable(0.2)


def test_identity_is_the_records_own_id_then_its_key() -> None:
    assert identity_of(action("e9"), "u1") == "e9"
    assert identity_of(None, "item-1") == "item-1"
