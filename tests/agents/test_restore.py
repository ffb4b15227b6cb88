"""A Redis that lost everything, or a cluster's master that did: writers wait, and what was there
comes back by `oxygenrec restore`.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.cluster

from agents.restore import LostMeanwhile, RedisUnreachable, restore
from agents.settings import load_settings
from schemas import topics
from schemas.actions import ActionType, UserAction, UserErased
from schemas.catalog import item_key_of
from schemas.topics import topic_table
from schemas.users import UserProfile
from streams.connections import KafkaConfig, RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.ports import LOOPBACK
from streams.local.redis_cluster import LocalRedisCluster
from streams.local.redis_server import LocalRedis
from streams.producer import RecordProducer
from streams.redis_client import edge_client
from streams.redis_epoch import begin_epoch
from streams.redis_history import RedisHistory
from streams.redis_instructions import RedisInstructions
from streams.redis_items import RedisItems
from streams.redis_keys import CLUSTER, EPOCH_KEY, ONE_SERVER, history_key
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


LATER = [f"zoe-{n}" for n in range(12)]  # some of them in every master of three


class OneServer:
    """A Redis that is emptied."""

    def __init__(self, folder: Path) -> None:
        self.server = self.emptied = LocalRedis(folder)
        self.url = self.server.url
        self.tags = ONE_SERVER.tags

    def open(self) -> Any:
        """Returns a client of all that is there."""
        return redis.Redis.from_url(self.url)

    def loses(self, client: Any, user: str) -> bool:
        """Whether a user's keys are among what is lost."""
        return True

    def empty(self) -> None:
        """Starts it anew."""
        self.emptied.kill()
        self.emptied.start()


class Cluster:
    """Three masters, of which one is emptied."""

    def __init__(self, folder: Path) -> None:
        self.server = LocalRedisCluster(folder)
        self.emptied = self.server.masters[1]
        self.url = self.server.url
        self.tags = CLUSTER.tags

    def open(self) -> Any:
        return redis.cluster.RedisCluster(host=LOOPBACK, port=self.server.masters[0].port)

    def loses(self, client: Any, user: str) -> bool:
        node = client.get_node_from_key(CLUSTER.tag(user) + history_key(user))
        return bool(node.port == self.emptied.port)

    def empty(self) -> None:
        self.emptied.kill()
        self.emptied.start()
        self.server.wait_ready()


@dataclass
class Lost:
    """A running near line whose Redis lost memory, and what all of it held before."""

    producer: RecordProducer
    redis: Any
    shop: OneServer | Cluster
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


def contents(client: Any) -> dict[str, Any]:
    """Returns every key with its value: without tags, and popularity of all buckets together."""
    read: dict[Any, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    found: dict[str, Any] = {}
    for key in client.scan_iter(count=1_000):
        name = key.decode().rpartition("}")[2]
        value = read[client.type(key)](key)
        if name.startswith("popular:"):
            sums = found.setdefault(name, Counter())
            sums.update({member: int(weight) for member, weight in value})
        else:
            found[name] = value
    return found


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


def everything_arrived(client: Any) -> bool:
    names = list(contents(client))
    return (
        sum(name.startswith("item:") for name in names) == 40
        and sum(name.startswith("profile:") for name in names) == len(USERS) - 1
        and sum(name.startswith("instruction:1:") for name in names) >= len(USERS) - 1
        and f"erased:{USERS[0]}" in names
    )


@pytest.fixture(scope="module", params=[OneServer, Cluster])
def lost(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lost]:
    folder, home = tmp_path_factory.mktemp("restore"), tmp_path_factory.mktemp("home")
    fit_generation(home)
    place = request.param(folder / "redis")
    with LocalKafka(folder / "kafka") as broker, place.server:
        broker.ensure_topics(topic_table(PARTITIONS))
        begin_epoch(RedisConfig(url=place.url), now_ms=0)
        environment = worker_environment(broker.bootstrap, place.url, home)
        workers = [WorkerProcess(name, environment, folder) for name in NAMES]
        client = place.open()
        try:
            with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
                run = Lost(producer, client, place, environment, {})
                shop(run)
                eventually(lambda: everything_arrived(client), 60, f"all effects; see {folder}")
                run.before = contents(client)
                place.empty()
                yield run
        finally:
            client.close()
            codes = [worker.stop() for worker in workers]
        assert codes == [0] * len(workers)


def test_nobody_writes_where_memory_was_lost_and_no_action_goes_on_before_history(
    lost: Lost,
) -> None:
    for user in LATER:
        lost.act(user, f"{user}-1", ActionType.SEARCH, query="lamp number")
        lost.producer.send(topics.USERS, UserProfile(user_id=user), user)
    for item in ITEMS[41:50]:
        lost.producer.send(topics.CATALOG, item, item.item_id)
    lost.producer.flush(10_000)
    time.sleep(3)  # each writer tries again every half second
    with redis.Redis(port=lost.shop.emptied.port) as emptied:
        assert emptied.dbsize() == 0
    logs = Logs(lost.environment["OXYGENREC_KAFKA__BOOTSTRAP"])
    forwarded = {m.key() for part in logs.read(topics.HIGH_VALUE_ACTIONS) for m in part}
    logs.close()
    waiting = {user.encode() for user in LATER if lost.shop.loses(lost.redis, user)}
    assert waiting
    assert not waiting & forwarded  # guarantee 3: the context of a trigger holds its actions


async def test_a_restore_brings_back_what_was_there_and_the_writers_go_on(lost: Lost) -> None:
    done = lost.restore()
    assert done.returncode == 0, done.stderr
    after = contents(lost.redis)
    assert EPOCH_KEY in after
    assert "restoring" not in after
    # Of who came later, what waited may be there by now.
    without = {key: value for key, value in lost.before.items() if key != EPOCH_KEY}
    assert {key: after.get(key) for key in without} == without
    waited = [f"item:{item_key_of(item.item_id)}" for item in ITEMS[41:50]]
    for user in LATER:
        waited += [f"instruction:1:{user}", f"profile:{user}", f"history:{user}"]
    eventually(lambda: set(waited) <= set(contents(lost.redis)), 60, "what waited is written")
    edge = edge_client(RedisConfig(url=lost.shop.url))
    for user in [*USERS[1:], *LATER]:
        assert await RedisHistory(edge).recent(user, 10)
        assert await RedisInstructions(edge).read(1, user)
    assert await RedisItems(edge).popular("home", 1) == [item_key_of("item-3")]  # ordered most
    await edge.aclose()


def test_a_restore_without_a_loss_says_so_and_a_forced_one_changes_nothing(lost: Lost) -> None:
    before = contents(lost.redis)
    again = lost.restore()
    assert (again.returncode, "nothing is missing" in again.stdout) == (0, True)
    assert lost.restore("--force").returncode == 0
    after = contents(lost.redis)
    assert before.pop(EPOCH_KEY) != after.pop(EPOCH_KEY)
    assert after == before


def test_a_second_restore_beside_the_first_is_refused(lost: Lost) -> None:
    lost.redis.delete(lost.shop.tags[-1] + EPOCH_KEY)
    lost.redis.set("restoring", 1, px=60_000)
    refused = lost.restore()
    assert refused.returncode == 1
    assert "another restore writes" in refused.stderr
    lost.redis.delete("restoring")
    assert lost.restore().returncode == 0


async def test_a_restore_during_which_memory_was_lost_again_begins_no_epoch(lost: Lost) -> None:
    settings = load_settings(lost.environment)
    emptied: list[str] = []

    def empty(log: str, done: int, total: int) -> None:
        if log == topics.SEMANTIC_IDS and not emptied:  # behind the actions, before instructions
            emptied.append(log)
            lost.shop.empty()

    with pytest.raises((LostMeanwhile, RedisUnreachable), match="restore` again"):
        await restore(settings, empty, force=True)
    assert emptied
    assert EPOCH_KEY not in contents(lost.redis)
    lost.redis.delete("restoring")  # one that did not reach Redis leaves it for a minute
    assert lost.restore().returncode == 0
    assert EPOCH_KEY in contents(lost.redis)
