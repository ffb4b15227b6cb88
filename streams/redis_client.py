"""Connections to Redis or Valkey, with the time limits of each kind of caller."""

import redis
import redis.asyncio

from streams.connections import RedisConfig

EDGE_TIMEOUT_S = 1.0
EDGE_CONNECTIONS = 128  # beyond them a request is degraded at once: Redis does not keep up
WORKER_TIMEOUT_S = 5.0  # a worker can wait: a saving or failing-over server answers within seconds


def edge_client(config: RedisConfig) -> redis.asyncio.Redis:
    """Returns the edge's client: it tries once. The edge itself waits no longer than its deadline.

    A socket that were closed after 10 ms would have to be opened anew by the next request, which
    would then be late too.
    """
    return redis.asyncio.Redis.from_url(
        config.url,
        socket_timeout=EDGE_TIMEOUT_S,
        socket_connect_timeout=EDGE_TIMEOUT_S,
        max_connections=EDGE_CONNECTIONS,
        retry=None,
    )


def worker_client(config: RedisConfig) -> redis.asyncio.Redis:
    """Returns an asynchronous worker's client."""
    return redis.asyncio.Redis.from_url(
        config.url,
        socket_timeout=WORKER_TIMEOUT_S,
        socket_connect_timeout=WORKER_TIMEOUT_S,
    )


def router_client(config: RedisConfig) -> redis.Redis:
    """Returns the router's client: the fire-hose is a plain loop, one call a batch."""
    return redis.Redis.from_url(
        config.url,
        socket_timeout=WORKER_TIMEOUT_S,
        socket_connect_timeout=WORKER_TIMEOUT_S,
    )
