"""A cluster that changes: a replica takes over, a bucket moves, nobody is there."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of
from streams.connections import RedisConfig
from streams.local.ports import LOOPBACK
from streams.local.redis_cluster import LocalRedisCluster
from streams.redis_client import edge_client, router_client, worker_client
from streams.redis_epoch import begin_epoch
from streams.redis_history import HistoryWriter, RedisHistory, Written
from streams.redis_items import RedisItems
from streams.redis_keys import CLUSTER, EPOCH_KEY, history_key
from streams.redis_servers import identity_of

FAILOVER_S = 30.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalRedisCluster]:
    """One of a test's own: it is changed."""
    with LocalRedisCluster(tmp_path, replicas=1, node_timeout_ms=1_000) as servers:
        begin_epoch(RedisConfig(url=servers.url), now_ms=0)
        yield servers


@pytest.fixture
async def readers(cluster: LocalRedisCluster) -> AsyncIterator[list[redis.asyncio.Redis]]:
    """A worker's client and the edge's."""
    config = RedisConfig(url=cluster.url)
    clients = [worker_client(config), edge_client(config)]
    yield clients
    for client in clients:
        await client.aclose()


def click(user: str, event: int) -> UserAction:
    return UserAction(
        event_id=f"{user}-{event}",
        user_id=user,
        action=ActionType.CLICK,
        item_id="item-1",
        event_time_ms=1_767_225_600_000 + event,
    )


def users_of(tag: str, count: int) -> list[str]:
    """Returns new users of a bucket."""
    made = (f"user-{uuid.uuid4().hex}" for _ in range(100 * count))
    return [user for user in made if CLUSTER.tag(user) == tag][:count]


def written(write: Callable[[], Written]) -> Written:
    """Writes until it is taken, as a worker does."""
    deadline = time.monotonic() + FAILOVER_S
    while True:
        try:
            return write()
        except redis.RedisError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.integration
@pytest.mark.timeout(90)
async def test_every_client_finds_the_replica_that_took_over_and_its_epochs(
    cluster: LocalRedisCluster, readers: list[redis.asyncio.Redis]
) -> None:
    tag = CLUSTER.tags[0]  # the first slots are the first master's, which has the replica
    before, after = users_of(tag, 2)
    with router_client(RedisConfig(url=cluster.url)) as router:
        writer = HistoryWriter(router, 200)
        assert writer.write([click(before, 1)]).fresh == 1
        for client in readers:
            assert len(await RedisHistory(client).recent(before, 9)) == 1
        first = await identity_of(readers[0])
        with redis.Redis(port=cluster.masters[0].port) as master:
            assert master.wait(1, 5_000) == 1
        cluster.masters[0].kill()
        assert written(lambda: writer.write([click(before, 2), click(after, 1)])).fresh == 2
    for client in readers:
        history = RedisHistory(client)
        found = await eventually(partial(history.recent, before, 9))
        assert [one.event_id for one in found] == [f"{before}-1", f"{before}-2"]
        assert len(await history.recent(after, 9)) == 1
    assert await identity_of(readers[0]) != first


async def eventually(read: Callable[[], Any]) -> Any:
    """Reads until it is answered: a client that was not asked meanwhile fails once or twice."""
    deadline = time.monotonic() + FAILOVER_S
    while True:
        try:
            return await read()
        except redis.RedisError:
            assert time.monotonic() < deadline


class Move:
    """A bucket's slot on its way from the first master to the second."""

    def __init__(self, cluster: LocalRedisCluster, tag: str) -> None:
        self.source, self.target = (redis.Redis(port=m.port) for m in cluster.masters[:2])
        self._port = cluster.masters[1].port
        self._slot = key_slot(tag.encode())
        self._ids = [self._id(client) for client in (self.source, self.target)]
        self._say(self.target, "IMPORTING", self._ids[0])
        self._say(self.source, "MIGRATING", self._ids[1])

    def carry(self, key: str | bytes) -> None:
        """Moves one key."""
        self.source.migrate(LOOPBACK, self._port, [key], 0, 5_000)

    def finish(self) -> None:
        """Moves the rest; the slot is the second master's."""
        asked: Any = self.source
        for key in asked.execute_command("CLUSTER GETKEYSINSLOT", self._slot, 1_000):
            self.carry(key)
        for client in (self.target, self.source):
            self._say(client, "NODE", self._ids[1])
            client.close()

    def _id(self, client: Any) -> str:
        name: bytes | str = client.execute_command("CLUSTER MYID")
        return name if isinstance(name, str) else name.decode()

    def _say(self, client: Any, state: str, node: str) -> None:
        client.execute_command("CLUSTER SETSLOT", self._slot, state, node)


@pytest.mark.integration
@pytest.mark.timeout(90)
async def test_no_batch_is_half_written_while_its_bucket_moves(
    cluster: LocalRedisCluster, readers: list[redis.asyncio.Redis]
) -> None:
    tag = CLUSTER.tags[0]
    known, unknown = users_of(tag, 2)
    with router_client(RedisConfig(url=cluster.url)) as router:
        writer = HistoryWriter(router, 200)
        writer.write([click(known, 1)])
        first = await identity_of(readers[0])
        for client in readers:
            assert len(await RedisHistory(client).recent(known, 9)) == 1
        move = Move(cluster, tag)
        for key in (EPOCH_KEY, history_key(known)):
            move.carry(tag + key)
        batch = [click(known, 2), click(unknown, 1)]
        with pytest.raises(redis.RedisError):
            writer.write(batch)
        for client in readers:  # readers are sent to where the key is
            assert len(await RedisHistory(client).recent(known, 9)) == 1
            assert await RedisHistory(client).recent(unknown, 9) == []
        move.finish()
        assert written(lambda: writer.write(batch)).fresh == 2
    for client in readers:
        assert len(await RedisHistory(client).recent(known, 9)) == 2
        assert len(await RedisHistory(client).recent(unknown, 9)) == 1
    with redis.Redis(port=cluster.masters[1].port) as target:
        assert target.zscore(f"{tag}popular:home", str(item_key_of("item-1"))) == 3
    assert await RedisItems(readers[1]).popular("home", 1) == [item_key_of("item-1")]
    assert await identity_of(readers[0]) != first


async def test_a_cluster_that_is_away_fails_as_a_server_that_is_away() -> None:
    config = RedisConfig(url="redis+cluster://127.0.0.1:1,127.0.0.1:2")
    with router_client(config) as router:
        writer = HistoryWriter(router, 200)
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                writer.write([click("ann", 1)])
    for client in (worker_client(config), edge_client(config)):
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                await RedisHistory(client).recent("ann", 9)
            with pytest.raises(redis.ConnectionError):
                await RedisItems(client).rows([1, 2])
        await client.aclose()
