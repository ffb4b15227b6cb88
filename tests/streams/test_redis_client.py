"""Addresses of Redis: one server, sentinels through a failover, and what is refused."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redis.exceptions import RedisError

from streams.connections import RedisConfig
from streams.local.ports import LOOPBACK, free_ports
from streams.local.process import LocalProcess
from streams.local.redis_server import LocalRedis, find_server, ping
from streams.redis_addresses import ClusterAddress, RedisUrlInvalid, SentinelAddress
from streams.redis_client import edge_client, router_client, worker_client

FAILOVER_S = 30.0
MASTER = "oxygenrec"


def test_an_address_of_sentinels_names_them_the_master_and_its_credentials() -> None:
    address = SentinelAddress.of("rediss+sentinel://ann:p%40ss@a:26380,b/shop/2")
    assert address is not None
    assert address.sentinels == [("a", 26380), ("b", 26379)]
    assert (address.master, address.db, address.tls) == ("shop", 2, True)
    assert (address.username, address.password) == ("ann", "p@ss")
    assert SentinelAddress.of("redis://localhost:6379/0") is None


def test_an_address_of_a_cluster_names_some_nodes_and_their_credentials() -> None:
    address = ClusterAddress.of("rediss+cluster://ann:p%40ss@a:7000,b/0")
    assert address is not None
    assert address.nodes == [("a", 7000), ("b", 6379)]
    assert (address.username, address.password, address.tls) == ("ann", "p@ss", True)
    assert ClusterAddress.of("redis+sentinel://a/shop") is None


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis+sentinel://a:26379", "/master"),
        ("redis+sentinel:///shop", "/master"),
        ("redis+sentinel://a:26379/shop/two", "/master"),
        ("redis+sentinel://a:b/shop", "host:port"),
        ("redis+cluster://", "host"),
        ("redis+cluster://a:6379/2", "no databases"),
        ("redis+cluster://a:b", "host:port"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, wanted: str) -> None:
    for client in (edge_client, worker_client, router_client):
        with pytest.raises(RedisUrlInvalid, match=wanted):
            client(RedisConfig(url=url))


class Watched:
    """A master, its replica, and a sentinel that decides alone after half a second."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        self.master, self.replica = (
            servers.enter_context(LocalRedis(_made(folder / name)))
            for name in ("master", "replica")
        )
        with redis.Redis(port=self.replica.port) as client:
            client.replicaof(LOOPBACK, self.master.port)
        (port,) = free_ports(1)
        self.url = f"redis+sentinel://{LOOPBACK}:{port}/{MASTER}"
        config = _made(folder / "sentinel") / "sentinel.conf"
        config.write_text(
            f"bind {LOOPBACK}\nport {port}\ndir {config.parent}\n"
            f"sentinel monitor {MASTER} {LOOPBACK} {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 500\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        sentinel = LocalProcess(
            "sentinel",
            [find_server(), config, "--sentinel"],
            log=config.with_suffix(".log"),
        )
        sentinel.start()
        servers.callback(sentinel.stop, grace_s=5.0)
        sentinel.wait_ready(lambda: ping(port), timeout_s=15)
        with redis.Redis(port=port) as watcher:
            eventually(lambda: bool(watcher.execute_command("SENTINEL", "REPLICAS", MASTER)))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as servers:
        yield Watched(tmp_path, servers)


@pytest.mark.integration
@pytest.mark.timeout(90)
async def test_every_client_finds_the_new_master_after_a_failover(watched: Watched) -> None:
    config = RedisConfig(url=watched.url)
    router, worker, edge = router_client(config), worker_client(config), edge_client(config)
    router.set("before", "1")
    assert await worker.get("before") == b"1"
    with redis.Redis(port=watched.replica.port) as replica:
        eventually(lambda: replica.get("before") == b"1")
    watched.master.kill()
    written = False
    deadline = time.monotonic() + FAILOVER_S
    while not written and time.monotonic() < deadline:
        try:
            written = bool(await asyncio.to_thread(router.set, "after", "2"))
        except RedisError:
            await asyncio.sleep(0.1)
    assert written
    for client in (worker, edge):
        assert [await client.get("before"), await client.get("after")] == [b"1", b"2"]
        await client.aclose()
    router.close()


def eventually(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
