"""`oxygenrec refresh` on real Redis and Kafka: killed in the middle, every active user is there."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.cluster

from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.codec import RECORDS, Decoder
from schemas.instructions import InstructionTrigger
from schemas.topics import topic_table
from streams.connections import RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.ports import LOOPBACK
from streams.local.redis_cluster import LocalRedisCluster
from streams.local.redis_server import LocalRedis
from streams.redis_client import router_client
from streams.redis_epoch import begin_epoch
from streams.redis_history import HistoryWriter
from streams.redis_keys import CLUSTER, EPOCH_KEY, ONE_SERVER
from streams.redis_refresh import PROGRESS_KEY
from tests.agents.near_line import PARTITIONS, Logs, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
ACTIVE = {f"active-{n}" for n in range(300)}
DAY_MS = 86_400_000
PAGE = 20


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path_factory.mktemp("refresh-kafka")) as kafka:
        kafka.ensure_topics(topic_table(PARTITIONS))
        yield kafka


@pytest.fixture(scope="module", params=[LocalRedis, LocalRedisCluster])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalRedis | LocalRedisCluster]:
    """A Redis of its own (the walk sees every key): users, and keys that are no users."""
    now_ms = time.time_ns() // 1_000_000
    with request.param(tmp_path_factory.mktemp("refresh-redis")) as server:
        begin_epoch(RedisConfig(url=server.url), now_ms=0)
        with router_client(RedisConfig(url=server.url)) as client:
            acts = [click(user, now_ms - DAY_MS) for user in sorted(ACTIVE)]
            acts += [click(f"asleep-{n}", now_ms - 30 * DAY_MS) for n in range(100)]
            acts += [click(f"fresh-{n}", now_ms) for n in range(100)]  # their windows are open
            HistoryWriter(client, 200).write(acts)
            for n in range(100):
                client.set(f"profile:nobody-{n}", "{}")
        yield server


def click(user: str, at_ms: int) -> UserAction:
    return UserAction(
        event_id="1", user_id=user, action=ActionType.CLICK, item_id="i", event_time_ms=at_ms
    )


def refresh(broker: LocalKafka, url: str, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        "OXYGENREC_KAFKA__BOOTSTRAP": broker.bootstrap,
        "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
        "OXYGENREC_REDIS__URL": url,
        "OXYGENREC_REFRESH__PAGE": str(PAGE),
        "OXYGENREC_REFRESH__USERS_PER_SECOND": "100",
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "refresh"],
            env=os.environ | environment,
            stdout=output,
            stderr=output,
        )


def opened(shop: LocalRedis | LocalRedisCluster) -> tuple[Any, tuple[str, ...]]:
    """Returns a client, and the tags of its buckets."""
    if isinstance(shop, LocalRedis):
        return redis.Redis.from_url(shop.url), ONE_SERVER.tags
    return redis.cluster.RedisCluster(host=LOOPBACK, port=shop.masters[0].port), CLUSTER.tags


def test_a_killed_and_resumed_refresh_covers_each_active_user(
    broker: LocalKafka, shop: LocalRedis | LocalRedisCluster, tmp_path: Path
) -> None:
    client, tags = opened(shop)
    logs = Logs(broker.bootstrap)
    begin = logs.ends(topics.INSTRUCTION_REFRESHES)
    decoder: Decoder[InstructionTrigger] = Decoder(RECORDS[topics.INSTRUCTION_REFRESHES])
    killed = refresh(broker, shop.url, tmp_path / "killed.log")
    try:
        eventually(lambda: client.exists(PROGRESS_KEY), 30, f"a page; see {tmp_path}")
    finally:
        killed.kill()
        killed.wait(10)
    before = sum(logs.ends(topics.INSTRUCTION_REFRESHES)) - sum(begin)
    assert 0 < before < len(ACTIVE)
    log = tmp_path / "resumed.log"
    assert refresh(broker, shop.url, log).wait(60) == 0, log.read_text()
    found = [
        decoder.decode(message.value() or b"")
        for part, first in zip(logs.read(topics.INSTRUCTION_REFRESHES), begin, strict=True)
        for message in part[first:]
    ]
    logs.close()
    assert {one.user_id for one in found} == ACTIVE
    assert len(found) < len(ACTIVE) + 100  # it went on: what a page held came again, no more
    assert "300 users refreshed" in log.read_text()
    assert not client.exists(PROGRESS_KEY)
    client.delete(tags[-1] + EPOCH_KEY)
    refused = tmp_path / "refused.log"
    assert refresh(broker, shop.url, refused).wait(30) == 3
    assert "oxygenrec restore" in refused.read_text()
    client.close()
