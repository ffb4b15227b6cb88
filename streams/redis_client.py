"""Connections to Redis or Valkey, with the time limits of each kind of caller.

One server (`redis://`, `rediss://`, `unix://`); the master that sentinels name
(`redis+sentinel://[user:password@]host[:port][,host[:port]...]/master[/db]`): after a failover each
new connection goes to the new master; or a cluster (`redis+cluster://[user:password@]host[:port]
[,host[:port]...]`), whose keys lie in buckets (`streams/redis_keys.py`).
"""

from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streams.connections import RedisConfig
from streams.redis_addresses import ClusterAddress, SentinelAddress
from streams.redis_batching import BatchingCluster, BatchingRedis
from streams.redis_cluster import AsyncCluster, RouterCluster

EDGE_TIMEOUT_S = 1.0
EDGE_CONNECTIONS = 128  # beyond them a request is degraded at once: Redis does not keep up
WORKER_TIMEOUT_S = 5.0  # a worker can wait: a saving or failing-over server answers within seconds


def edge_client(config: RedisConfig) -> redis.asyncio.Redis:
    """Returns the edge's client: it tries once. The edge itself waits no longer than its deadline.

    A socket that were closed after 10 ms would have to be opened anew by the next request, which
    would then be late too.
    """
    if address := ClusterAddress.of(config.url):
        once = Retry(NoBackoff(), 0)
        return _cluster(
            address, EDGE_TIMEOUT_S, AsyncCluster, max_connections=EDGE_CONNECTIONS, retry=once
        )
    single = redis.asyncio.Redis
    return _asynchronous(
        config, EDGE_TIMEOUT_S, single, max_connections=EDGE_CONNECTIONS, retry=None
    )


def worker_client(config: RedisConfig) -> redis.asyncio.Redis:
    """Returns an asynchronous worker's client: what its tasks ask for at once goes out at once."""
    if address := ClusterAddress.of(config.url):
        return _cluster(address, WORKER_TIMEOUT_S, BatchingCluster)
    return _asynchronous(config, WORKER_TIMEOUT_S, BatchingRedis)


def router_client(config: RedisConfig) -> redis.Redis | RouterCluster:
    """Returns the router's client: the fire-hose is a plain loop, one round trip a batch."""
    limits = _limits(WORKER_TIMEOUT_S)
    if cluster := ClusterAddress.of(config.url):
        return RouterCluster(lambda: _router_cluster(cluster, limits))
    if (address := SentinelAddress.of(config.url)) is None:
        return redis.Redis.from_url(config.url, **limits)
    manager: Any = redis.sentinel.Sentinel
    watchers = manager(address.sentinels, sentinel_kwargs=limits)
    found: redis.Redis = watchers.master_for(
        address.master, redis_class=_Watched, **limits, **address.options
    )
    return found


class _Watched(redis.Redis):
    """The master's client; closes its connections to the sentinels too."""

    def close(self) -> None:
        super().close()
        for sentinel in cast(Any, self.connection_pool).sentinel_manager.sentinels:
            sentinel.close()


class _WatchedAsync(redis.asyncio.Redis):
    """As `_Watched`, for asyncio."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for sentinel in cast(Any, self.connection_pool).sentinel_manager.sentinels:
            await sentinel.aclose()


class _WatchedBatching(_WatchedAsync, BatchingRedis):  # type: ignore[misc]  # redis-py's mixins
    """The master's client of a worker."""


def _asynchronous(
    config: RedisConfig, timeout_s: float, kind: type[redis.asyncio.Redis], **options: Any
) -> redis.asyncio.Redis:
    limits = _limits(timeout_s)
    if (address := SentinelAddress.of(config.url)) is None:
        return kind.from_url(config.url, **limits, **options)
    manager: Any = redis.asyncio.sentinel.Sentinel
    watchers = manager(address.sentinels, sentinel_kwargs=limits)
    watched = _WatchedBatching if issubclass(kind, BatchingRedis) else _WatchedAsync
    found: redis.asyncio.Redis = watchers.master_for(
        address.master, redis_class=watched, **limits, **address.options, **options
    )
    return found


def _cluster(
    address: ClusterAddress, timeout_s: float, kind: type[AsyncCluster], **options: Any
) -> redis.asyncio.Redis:
    node: Any = redis.asyncio.cluster.ClusterNode
    nodes = [node(host, port) for host, port in address.nodes]
    made = kind(startup_nodes=nodes, **_limits(timeout_s), **address.options, **options)
    # The two kinds of clients have the same commands and pipelines, and no type in common.
    return cast(redis.asyncio.Redis, made)


def _router_cluster(address: ClusterAddress, limits: dict[str, Any]) -> redis.cluster.RedisCluster:
    node: Any = redis.cluster.ClusterNode
    nodes = [node(host, port) for host, port in address.nodes]
    return redis.cluster.RedisCluster(startup_nodes=nodes, **limits, **address.options)


def _limits(timeout_s: float) -> dict[str, Any]:
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
