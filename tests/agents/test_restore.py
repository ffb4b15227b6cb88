"""A Redis that lost everything: writers wait, `oxygenrec restore` brings back what was there."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from schemas import topics
from schemas.actions import ActionType, UserAction, UserErased
from schemas.catalog import item_key_of
from schemas.topics import topic_table
from schemas.users import UserProfile
from streams.connections import KafkaConfig, RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.producer import RecordProducer
from streams.redis_epoch import EPOCH_KEY, begin_epoch
from tests.agents.near_line import (
    ITEMS,
    PARTITIONS,
    Logs,
    WorkerProcess,
    eventually,
    fit_generation,
    worker_environment,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

NAMES = ("router", "window-aggregator", "instruction-writer", "catalog-indexer")
USERS = [f"user-{n}" for n in range(8)]
KINDS = (ActionType.VIEW, ActionType.CLICK, ActionType.CART, ActionType.ORDER)


@dataclass
class Lost:
    """A running near line whose Redis was emptied, and what it held before."""

    producer: RecordProducer
    redis: redis.Redis
    environment: dict[str, str]
    before: dict[str, Any]

    def act(self, user: str, event: str, kind: ActionType, **fields: Any) -> None:
        action = UserAction(
            event_id=event,
            user_id=user,
            action=kind,
            event_time_ms=time.time_ns() // 1_000_000,
            **fields,
        )
        self.producer.send(topics.ACTIONS, action, user)

    def restore(self, *options: str) -> subprocess.CompletedProcess[str]:
        """`oxygenrec restore` as an operator runs it."""
        return subprocess.run(
            [sys.executable, "-m", "agents.cli", "restore", *options],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


def contents(client: redis.Redis) -> dict[str, Any]:
    """Returns every key with its value."""
    read: dict[Any, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    keys: Any = client.keys("*")
    return {key.decode(): read[client.type(key)](key) for key in keys}


def shop(lost: Lost) -> None:
    """Catalogue, profiles and actions; one item is deleted, one user erased, one record poison."""
    for item in ITEMS[:40]:
        lost.producer.send(topics.CATALOG, item, item.item_id)
    lost.producer.send(topics.CATALOG, None, "item-3")
    for user in USERS:
        if user != USERS[0]:  # whose profile might arrive after the erasure, or before
            lost.producer.send(topics.USERS, UserProfile(user_id=user, city="Lima"), user)
        for number, kind in enumerate(KINDS):
            event = f"{user}-{number}"
            lost.act(user, event, kind, item_id=f"item-{number}")
            lost.act(user, event, kind, item_id=f"item-{number}")  # again, a little later
        lost.act(user, f"{user}-search", ActionType.SEARCH, query="kettle number")
    erased = UserErased(event_id="gone", user_id=USERS[0], event_time_ms=time.time_ns() // 10**6)
    lost.producer.send(topics.ACTIONS, erased, USERS[0])
    lost.producer.send(topics.ACTIONS, b'{"schema":', USERS[1])
    lost.producer.flush(10_000)


def everything_arrived(client: redis.Redis) -> bool:
    instructions = client.keys("instruction:1:*")
    return (
        len(client.keys("item:*")) == 40
        and len(client.keys("profile:*")) == len(USERS) - 1
        and len(instructions) >= len(USERS) - 1
        and client.exists(f"erased:{USERS[0]}") == 1
    )


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lost]:
    folder, home = tmp_path_factory.mktemp("restore"), tmp_path_factory.mktemp("home")
    fit_generation(home)
    with LocalKafka(folder / "kafka") as broker, LocalRedis(folder / "redis") as server:
        broker.ensure_topics(topic_table(PARTITIONS))
        begin_epoch(RedisConfig(url=server.url), now_ms=0)
        environment = worker_environment(broker.bootstrap, server.url, home)
        workers = [WorkerProcess(name, environment, folder) for name in NAMES]
        client = redis.Redis.from_url(server.url)
        try:
            with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
                run = Lost(producer, client, environment, {})
                shop(run)
                eventually(lambda: everything_arrived(client), 60, f"all effects; see {folder}")
                run.before = contents(client)
                server.kill()
                server.start()
                yield run
        finally:
            codes = [worker.stop() for worker in workers]
        assert codes == [0] * len(workers)


def test_nobody_writes_into_a_redis_that_was_emptied_and_no_action_goes_on_before_history(
    lost: Lost,
) -> None:
    lost.act("zoe", "z1", ActionType.SEARCH, query="lamp number")
    lost.producer.send(topics.CATALOG, ITEMS[41], ITEMS[41].item_id)
    lost.producer.send(topics.USERS, UserProfile(user_id="zoe"), "zoe")
    lost.producer.flush(10_000)
    time.sleep(3)  # each writer tries again every half second
    assert contents(lost.redis) == {}
    logs = Logs(lost.environment["OXYGENREC_KAFKA__BOOTSTRAP"])
    forwarded = [m.key() for part in logs.read(topics.HIGH_VALUE_ACTIONS) for m in part]
    logs.close()
    assert b"zoe" not in forwarded  # guarantee 3: the context of a trigger holds its actions


def test_a_restore_brings_back_what_was_there_and_the_writers_go_on(lost: Lost) -> None:
    done = lost.restore()
    assert done.returncode == 0, done.stderr
    after = contents(lost.redis)
    assert EPOCH_KEY in after
    assert "restoring" not in after
    without_epoch = {key: value for key, value in lost.before.items() if key != EPOCH_KEY}
    assert {key: after[key] for key in without_epoch if key in after} == without_epoch
    eventually(lambda: lost.redis.exists("instruction:1:zoe"), 30, "what waited is written")
    eventually(lambda: lost.redis.exists("profile:zoe"), 30, "what waited is written")
    waited = f"item:{item_key_of(ITEMS[41].item_id)}"
    eventually(lambda: lost.redis.exists(waited), 30, "what waited is written")


def test_a_restore_without_a_loss_says_so_and_a_forced_one_changes_nothing(lost: Lost) -> None:
    before = contents(lost.redis)
    again = lost.restore()
    assert (again.returncode, "nothing is missing" in again.stdout) == (0, True)
    assert lost.restore("--force").returncode == 0
    after = contents(lost.redis)
    assert before.pop(EPOCH_KEY) != after.pop(EPOCH_KEY)
    assert after == before


def test_a_second_restore_beside_the_first_is_refused(lost: Lost) -> None:
    lost.redis.delete(EPOCH_KEY)
    lost.redis.set("restoring", 1, px=60_000)
    refused = lost.restore()
    assert refused.returncode == 1
    assert "another restore writes" in refused.stderr
    lost.redis.delete("restoring")
    assert lost.restore().returncode == 0
