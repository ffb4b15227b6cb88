"""The order of the router's effects (FLOW, guarantee 3), seen by stand-ins for Kafka and Redis."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from confluent_kafka import TopicPartition

from agents import router
from agents.router import Router
from agents.settings import Settings
from schemas.actions import ActionType, UserAction
from schemas.codec import encode
from streams.connections import KafkaConfig
from streams.partitioner import partition_of
from streams.producer import Delivered, UndeliveredRecord
from tests.agents.test_routing import NOW_MS, action

USER = "ann"
PARTITION = partition_of(USER.encode(), 4)
ACKNOWLEDGED_AFTER_S = 0.05  # a commit that does not wait would be long done


class World:
    """What happened, in order; Kafka acknowledges a little later, or refuses."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.refuses = False
        self.away = 0  # how often Redis does not answer

    def send(self, topic: str, record: Any, *_: Any, **__: Any) -> Future[Delivered]:
        name = record.event_id if isinstance(record, UserAction) else "watermark"
        self.happened.append(f"sent {name}")
        sent: Future[Delivered] = Future()

        def settle() -> None:
            if self.refuses:
                sent.set_exception(UndeliveredRecord(topic=topic, identity=name, cause="refused"))
                return
            self.happened.append(f"acknowledged {name}")
            sent.set_result(Delivered(topic=topic, partition=PARTITION, offset=0, append_ms=0))

        threading.Timer(ACKNOWLEDGED_AFTER_S, settle).start()
        return sent

    def pack(self, records: list[Any], counted: Any) -> list[Any]:
        self.happened += [f"packed {record.event_id}" for record in records]
        return list(records)

    def write_packed(self, records: list[Any]) -> Any:
        if self.away:
            self.away -= 1
            raise redis.ConnectionError
        self.happened += [f"history {record.event_id}" for record in records]
        return SimpleNamespace(fresh=len(records), clicks={})

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.happened += [f"committed {place.offset}" for place in offsets]


class Read:
    """One message of `actions`, as the consumer hands it over."""

    def __init__(self, value: bytes, offset: int) -> None:
        self._value, self._offset = value, offset

    def error(self) -> None:
        return None

    def partition(self) -> int:
        return PARTITION

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return USER.encode()

    def value(self) -> bytes:
        return self._value

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 2, NOW_MS


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    for name in ("Consumer", "RecordProducer", "HistoryWriter"):
        monkeypatch.setattr(router, name, lambda *_, **__: world)
    monkeypatch.setattr(router, "check_topics", lambda *_: None)
    monkeypatch.setattr(router, "now_ms", lambda: NOW_MS)
    return world


def routed(*events: str) -> None:
    """Routes one batch an event, then waits for all in hand, as `Router.run` does."""
    member = Router(Settings(kafka=KafkaConfig(partitions=4)))
    stop = threading.Event()
    try:
        for offset, event in enumerate(events):
            value = encode(action(USER, event, ActionType.CART))
            member._route([Read(value, offset)], stop)  # type: ignore[list-item]
        member._finish()
    finally:
        member._effects.shutdown()


def test_an_offset_is_committed_after_everything_before_it_is_acknowledged(world: World) -> None:
    routed("a", "b")
    assert world.happened.index("history a") < world.happened.index("sent a")
    assert [what for what in world.happened if what.startswith("committed")] == ["committed 2"]
    assert world.happened[-1] == "committed 2"
    assert {"acknowledged a", "acknowledged b"} <= set(world.happened)


def test_a_batch_that_redis_did_not_take_is_written_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "REDIS_RETRY_S", 0.01)
    world.away = 2
    routed("a", "b")
    assert [what for what in world.happened if what.startswith("history")] == [
        "history a",
        "history b",
    ]
    assert [what for what in world.happened if what.startswith("packed")] == [
        "packed a",
        "packed b",
    ]


def test_what_kafka_refuses_is_never_committed(world: World) -> None:
    world.refuses = True
    with pytest.raises(UndeliveredRecord):
        routed("a", "b")
    assert not any(what.startswith("committed") for what in world.happened)
