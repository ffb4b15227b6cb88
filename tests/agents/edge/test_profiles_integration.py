"""Profiles and an erasure: the edge, router and profile writer on real Kafka and Redis."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest

from agents.edge.edge import open_edge
from agents.edge.http import create_app
from agents.profile_writer import run as write_profiles
from agents.router import Router
from agents.settings import Settings, load_settings
from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.topics import topic_table
from schemas.users import UserProfile
from streams.connections import KafkaConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.log_reader import LogReader, LogRecord
from streams.partitioner import partition_of
from streams.producer import RecordProducer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
PARTITIONS = 4


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path_factory.mktemp("profiles-kafka")) as kafka:
        kafka.ensure_topics(topic_table(PARTITIONS))
        yield kafka


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The router in a thread, the profile writer and the edge in this loop."""
    stop = threading.Event()
    router = asyncio.create_task(asyncio.to_thread(Router(settings).run, stop))
    writer = asyncio.create_task(write_profiles(settings))
    try:
        async with open_edge(settings) as edge:
            app: Any = create_app(edge)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://edge") as http:
                yield http
    finally:
        stop.set()
        await router
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer


async def logged(kafka: KafkaConfig, topic: str, user: str) -> list[LogRecord]:
    place = partition_of(user.encode(), PARTITIONS)
    async with LogReader(kafka, topic, place) as reader:
        return [record for record in await reader.read() if record.key == user.encode()]


def click(user: str, at_ms: int) -> UserAction:
    return UserAction(
        event_id=f"{user}-{at_ms}",
        user_id=user,
        action=ActionType.CLICK,
        item_id="i",
        event_time_ms=at_ms,
    )


@pytest.fixture
def settings(broker: LocalKafka, redis_server: LocalRedis) -> Settings:
    return load_settings(
        {
            "OXYGENREC_KAFKA__BOOTSTRAP": broker.bootstrap,
            "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
            "OXYGENREC_REDIS__URL": redis_server.url,
            "OXYGENREC_TRITON__GRPC_URL": "127.0.0.1:1",  # no slate is asked for here
        }
    )


@dataclass(frozen=True)
class User:
    """One user as a client of the edge sees them."""

    user_id: str
    http: httpx.AsyncClient

    @property
    def path(self) -> str:
        return f"/v1/users/{self.user_id}"

    async def seen(self) -> tuple[str | None, int]:
        """The profile's city (None: no profile), and how many actions history holds."""
        answer = (await self.http.get(self.path)).json()
        profile = answer["profile"]
        return None if profile is None else profile.get("city", ""), len(answer["recent"])

    async def becomes(self, city: str | None, actions: int) -> None:
        deadline = time.monotonic() + 30
        while (seen := await self.seen()) != (city, actions):
            assert time.monotonic() < deadline, f"{self.user_id} is {seen} after 30 s"
            await asyncio.sleep(0.1)

    async def act(self, at_ms: int) -> int:
        body = msgspec.json.encode(click(self.user_id, at_ms))
        return (await self.http.post("/v1/actions", content=body)).status_code


def neighbour_of(user_id: str) -> str:
    """A user of the same partition: what is sent for it afterwards is read afterwards."""
    place = partition_of(user_id.encode(), PARTITIONS)
    names = (f"profile-bob-{n}" for n in range(100))
    return next(name for name in names if partition_of(name.encode(), PARTITIONS) == place)


async def test_a_profile_is_stated_and_changed(settings: Settings) -> None:
    async with running(settings) as http:
        ann = User("profile-ann", http)
        stated = {"city": "Lima", "attributes": {"language": "es", "size": "S"}}
        assert (await http.put(ann.path, json=stated)).status_code == 202
        await ann.becomes("Lima", 0)
        patch = {"city": "Cusco", "attributes": {"size": None}}
        changed = await http.patch(ann.path, json=patch)
        assert changed.json()["attributes"] == {"language": "es"}
        await ann.becomes("Cusco", 0)


async def test_after_an_erasure_late_writes_stay_out_and_new_ones_do_not(
    settings: Settings,
) -> None:
    async with running(settings) as http:
        ann = User("profile-erased", http)
        other = User(neighbour_of(ann.user_id), http)
        begun_ms = time.time_ns() // 1_000_000
        await http.put(ann.path, json={"city": "Lima"})
        assert await ann.act(begun_ms) == 202
        await ann.becomes("Lima", 1)
        assert (await http.delete(ann.path)).status_code == 202
        assert await ann.seen() == (None, 0)
        with RecordProducer(settings.kafka, "test") as producer:
            late = UserProfile(user_id=ann.user_id, city="Lima", updated_ms=begun_ms)
            producer.send(topics.USERS, late, ann.user_id)
            producer.send(topics.USERS, UserProfile(user_id=other.user_id), other.user_id)
            for user in (ann, other):
                action = click(user.user_id, begun_ms + 1)
                producer.send(topics.ACTIONS, action, user.user_id)
            producer.flush(10_000)
        await other.becomes("", 1)
        assert await ann.seen() == (None, 0)
        assert (await http.put(ann.path, json={"city": "Quito"})).status_code == 202
        assert await ann.act(time.time_ns() // 1_000_000) == 202
        await ann.becomes("Quito", 1)
    in_band = await logged(settings.kafka, topics.ACTIONS, ann.user_id)
    assert [b"user_erased" in (one.value or b"") for one in in_band] == [False, True, False, False]
    for topic in (topics.USERS, topics.INSTRUCTIONS):
        assert None in [one.value for one in await logged(settings.kafka, topic, ann.user_id)]
