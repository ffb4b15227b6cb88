"""Connections to Redis or Valkey, with the time limits of each kind of caller.

One server (`redis://`, `rediss://`, `unix://`), or the master that sentinels name
(`redis+sentinel://[user:password@]host[:port][,host[:port]...]/master[/db]`): after a failover each
new connection goes to the new master. A cluster is refused: our scripts change keys of many users
at once, or a user's beside the epoch, and these lie in different slots.
"""

from typing import Any, NamedTuple, Self, cast
from urllib.parse import unquote

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from schemas.errors import OxygenRecError
from streams.connections import RedisConfig
from streams.redis_batching import BatchingRedis

EDGE_TIMEOUT_S = 1.0
EDGE_CONNECTIONS = 128  # beyond them a request is degraded at once: Redis does not keep up
WORKER_TIMEOUT_S = 5.0  # a worker can wait: a saving or failing-over server answers within seconds
SENTINEL_PORT = 26379
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")


class RedisUrlInvalid(OxygenRecError):
    """An address that is no single server and no sentinels."""

    def __init__(self, *, found: str, wanted: str) -> None:
        self.found = found
        self.wanted = wanted
        super().__init__(f"redis.url: found {found}, wanted {wanted}")


class SentinelAddress(NamedTuple):
    """Where the sentinels are, and which master they watch; credentials are the master's."""

    sentinels: list[tuple[str, int]]
    master: str
    db: int
    username: str | None
    password: str | None
    tls: bool

    @classmethod
    def of(cls, url: str) -> Self | None:
        """Returns the address, None for one server's. Raises `RedisUrlInvalid`."""
        scheme, _, rest = url.partition("://")
        if scheme in CLUSTER_SCHEMES:
            wanted = "one server or sentinels: scripts change keys of several slots at once"
            raise RedisUrlInvalid(found=f"{scheme}://", wanted=wanted)
        if scheme not in SENTINEL_SCHEMES:
            return None
        credentials, _, places = rest.rpartition("@")
        hosts, _, path = places.partition("/")
        master, _, db = path.partition("/")
        username, _, password = credentials.partition(":")
        sentinels = [_host_and_port(host) for host in hosts.split(",") if host]
        if not sentinels or not master or not (db or "0").isdecimal():
            wanted = "redis+sentinel://[user:password@]host[:port][,...]/master[/db]"
            raise RedisUrlInvalid(found=f"{scheme}://{places}", wanted=wanted)
        return cls(
            sentinels=sentinels,
            master=master,
            db=int(db or "0"),
            username=unquote(username) or None,
            password=unquote(password) or None,
            tls=scheme.startswith("rediss"),
        )

    @property
    def options(self) -> dict[str, Any]:
        """Options of the master's connections; sentinels themselves are asked without them."""
        return {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "ssl": self.tls,
        }


def edge_client(config: RedisConfig) -> redis.asyncio.Redis:
    """Returns the edge's client: it tries once. The edge itself waits no longer than its deadline.

    A socket that were closed after 10 ms would have to be opened anew by the next request, which
    would then be late too.
    """
    single = redis.asyncio.Redis
    return _asynchronous(
        config, EDGE_TIMEOUT_S, single, max_connections=EDGE_CONNECTIONS, retry=None
    )


def worker_client(config: RedisConfig) -> redis.asyncio.Redis:
    """Returns an asynchronous worker's client: what its tasks ask for at once goes out at once."""
    return _asynchronous(config, WORKER_TIMEOUT_S, BatchingRedis)


def router_client(config: RedisConfig) -> redis.Redis:
    """Returns the router's client: the fire-hose is a plain loop, one call a batch."""
    limits = _limits(WORKER_TIMEOUT_S)
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


def _limits(timeout_s: float) -> dict[str, Any]:
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}


def _host_and_port(place: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon:
        return place, SENTINEL_PORT
    if not host or not port.isdecimal():
        raise RedisUrlInvalid(found=place, wanted="a sentinel as host or host:port")
    return host, int(port)
