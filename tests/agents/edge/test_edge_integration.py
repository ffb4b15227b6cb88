"""The edge process on real Kafka, Redis and Triton, with each of them killed and brought back."""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from models.serving.policy_directory import LoadedPolicy, write_version
from models.serving.triton_config import write_config
from schemas import topics
from schemas.catalog import ItemRow
from schemas.codec import Decoder
from schemas.impressions import Impression
from schemas.policies import DEFAULT_LINE, PolicyPublished
from schemas.topics import topic_table
from streams.connections import KafkaConfig, RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.ports import free_ports
from streams.local.redis_server import LocalRedis
from streams.local.triton import LocalTriton
from streams.log_reader import LogReader
from streams.producer import RecordProducer
from streams.redis_client import worker_client
from streams.redis_epoch import begin_epoch
from streams.redis_items import RedisItems
from streams.redis_keys import popular_key
from tests.conftest import NO_CATALOG
from tests.models.generator.small_policy import CONTENT_DIM, small_policy

pytestmark = pytest.mark.integration

PARTITIONS = 4
ACKNOWLEDGE_MS = 1_500
DEADLINE_MS = 300


@dataclass
class RealWorld:
    """Three servers, one edge process, and a client."""

    kafka: LocalKafka
    redis: LocalRedis
    triton: LocalTriton
    policy: LoadedPolicy
    process: subprocess.Popen[bytes]
    http: httpx.Client

    @property
    def kafka_config(self) -> KafkaConfig:
        return KafkaConfig(bootstrap=self.kafka.bootstrap, partitions=PARTITIONS)

    def ask(self, **more: object) -> dict[str, Any]:
        response = self.http.post("/v1/recommendations", json={"user_id": "u", **more})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def act(self, *event_ids: str) -> httpx.Response:
        now_ms = time.time_ns() // 1_000_000
        batch = [
            {
                "event_id": event_id,
                "user_id": f"u{number % 7}",
                "action": "click",
                "item_id": "i",
                "event_time_ms": now_ms,
            }
            for number, event_id in enumerate(event_ids)
        ]
        return self.http.post("/v1/actions", json=batch)


def eventually(check: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.2)
    pytest.fail(f"not within {timeout_s} s: {what}")


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def announce(kafka: KafkaConfig, policy: LoadedPolicy) -> None:
    record = PolicyPublished(
        line=DEFAULT_LINE,
        stable_version=policy.manifest.policy_version,
        generation=policy.manifest.generation,
        index_offset=policy.manifest.index_offset,
        epoch=1,
        published_ms=1_700_000_000_000,
    )
    with RecordProducer(kafka, "test") as producer:
        producer.send(topics.POLICIES, record, DEFAULT_LINE).result(10)


def fill(server: LocalRedis, keys: list[int]) -> None:
    """Writes a row an item, and the items' popularity in rising order."""
    rows = [
        ItemRow(item_key=key, item_id=f"item-{key}", live=True, title="t", category="c")
        for key in keys
    ]

    begin_epoch(RedisConfig(url=server.url), now_ms=0)

    async def put() -> None:
        client = worker_client(RedisConfig(url=server.url))
        await RedisItems(client).put(rows)
        await client.aclose()

    asyncio.run(put())
    with redis.Redis.from_url(server.url) as client:
        client.zadd(popular_key("home"), {str(key): rank for rank, key in enumerate(keys)})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorld]:
    policy = small_policy(1, seed=3)
    repository = tmp_path_factory.mktemp("repository")
    write_version(repository / "generator", policy.manifest, policy.generator, policy.index)
    write_config(repository / "generator", [1], content_dim=CONTENT_DIM, levels=3)
    folder = tmp_path_factory.mktemp
    (port,) = free_ports(1)
    with (
        LocalKafka(folder("kafka")) as kafka,
        LocalRedis(folder("redis")) as redis_server,
        LocalTriton(
            repository, folder("triton"), load=["generator"], environment=NO_CATALOG
        ) as triton,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
    ):
        kafka.ensure_topics(topic_table(PARTITIONS))
        fill(redis_server, policy.index.keys_N.tolist())
        announce(KafkaConfig(bootstrap=kafka.bootstrap), policy)
        process = start_edge(kafka, redis_server, triton, port, folder("home"))
        try:
            eventually(lambda: is_ready(http), "the edge is ready")
            yield RealWorld(kafka, redis_server, triton, policy, process, http)
        finally:
            process.kill()
            process.wait()


def start_edge(
    kafka: LocalKafka, redis_server: LocalRedis, triton: LocalTriton, port: int, home: Path
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "OXYGENREC_HOME": str(home),
        "OXYGENREC_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
        "OXYGENREC_REDIS__URL": redis_server.url,
        "OXYGENREC_TRITON__GRPC_URL": triton.grpc_url,
        "OXYGENREC_HTTP__PORT": str(port),
        "OXYGENREC_HTTP__ACKNOWLEDGE_MS": str(ACKNOWLEDGE_MS),
        "OXYGENREC_SERVING__EXPLORATION_SHARE": "1.0",
        # Three times the defaults: the machine also carries the servers and other tests.
        "OXYGENREC_HTTP__DEADLINE_MS": str(DEADLINE_MS),
        "OXYGENREC_REDIS__DEADLINE_MS": "30",
        "OXYGENREC_TRITON__DEADLINE_MS": "210",
    }
    command = [sys.executable, "-m", "agents.cli", "worker", "edge"]
    return subprocess.Popen(command, env=environment)


def logged(world: RealWorld, topic: str) -> list[bytes]:
    async def read() -> list[bytes]:
        values = []
        for partition in range(PARTITIONS):
            async with LogReader(world.kafka_config, topic, partition) as reader:
                values += [record.value or b"" for record in await reader.read()]
        return values

    return asyncio.run(read())


def test_acknowledged_actions_are_in_the_log_and_the_three_bad_ones_are_not(
    world: RealWorld,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    batch: list[dict[str, object]] = [
        {
            "event_id": f"batch-{number}",
            "user_id": f"u{number % 50}",
            "action": "view",
            "item_id": "i",
            "event_time_ms": now_ms,
        }
        for number in range(1_000)
    ]
    for number, fault in ((3, {"action": "jump"}), (4, {"item_id": 7}), (5, {"user_id": ""})):
        batch[number] |= fault
    response = world.http.post("/v1/actions", json=batch)
    assert response.status_code == 202
    accepted = {r["event_id"] for r in response.json()["results"] if r["status"] == "accepted"}
    assert len(accepted) == 997
    text = b"".join(logged(world, topics.ACTIONS))
    assert all(f'"{event_id}"'.encode() in text for event_id in accepted)
    assert b'"batch-4"' not in text


def test_a_slate_comes_from_the_served_version_and_its_impression_is_logged(
    world: RealWorld,
) -> None:
    answer = world.ask(num_items=5)
    manifest = world.policy.manifest
    assert answer["degraded"] is None
    assert (answer["policy_version"], answer["generation"]) == (1, manifest.generation)
    assert len({item["item_id"] for item in answer["items"]}) == 5
    decoder: Decoder[Impression] = Decoder(Impression)

    def mine() -> list[Impression]:
        shown = [decoder.decode(value) for value in logged(world, topics.IMPRESSIONS)]
        return [one for one in shown if one.request_id == answer["request_id"]]

    eventually(lambda: bool(mine()), "the impression is in the log")
    (impression,) = mine()
    assert [item.item_id for item in impression.slate] == [i["item_id"] for i in answer["items"]]
    assert impression.exploration is not None
    assert impression.index_offset == manifest.index_offset


def test_an_unknown_trigger_item_is_refused(world: RealWorld) -> None:
    asked = {"user_id": "u", "trigger_item_id": "never-seen"}
    response = world.http.post("/v1/recommendations", json=asked)
    assert response.status_code == 400
    assert response.json()["reason"] == "unknown_item"


def test_with_triton_killed_popular_items_come_within_the_deadline_until_it_is_back(
    world: RealWorld,
) -> None:
    best = f"item-{world.policy.index.keys_N.tolist()[-1]}"
    world.triton.kill()
    seconds = []
    for _ in range(60):
        start = time.perf_counter()
        answer = world.ask(num_items=3)
        seconds.append(time.perf_counter() - start)
        assert answer["degraded"] in {"generator_gone", "generator_late"}
        assert answer["items"][0]["item_id"] == best
        assert answer["policy_version"] is None
    assert statistics.quantiles(seconds, n=10)[-1] < DEADLINE_MS / 1_000
    assert world.http.get("/readyz").status_code == 503
    world.triton.start()
    eventually(lambda: world.ask()["degraded"] is None, "the edge finds Triton again")


def test_with_redis_killed_the_last_known_popular_items_are_shown(world: RealWorld) -> None:
    world.redis.kill()
    answer = world.ask(num_items=3)
    assert str(answer["degraded"]).startswith("redis_")
    assert len(answer["items"]) == 3
    world.redis.start()
    fill(world.redis, world.policy.index.keys_N.tolist())
    eventually(lambda: world.ask()["degraded"] is None, "the edge finds Redis again")


def test_with_kafka_killed_a_503_names_the_events_and_their_retry_is_acknowledged(
    world: RealWorld,
) -> None:
    ids = [f"retry-{number}" for number in range(20)]
    world.kafka.kill()
    response = world.act(*ids)
    assert response.status_code == 503
    assert response.json()["unacknowledged"] == ids
    assert world.ask()["degraded"] is None
    world.kafka.restart()
    eventually(lambda: world.act(*ids).status_code == 202, "the retry is acknowledged")
    text = b"".join(logged(world, topics.ACTIONS))
    assert all(f'"{event_id}"'.encode() in text for event_id in ids)


def test_sigterm_ends_the_edge_cleanly(world: RealWorld) -> None:
    world.process.terminate()
    assert world.process.wait(20) == 0
