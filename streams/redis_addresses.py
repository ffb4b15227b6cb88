"""Addresses of Redis beyond one server's: sentinels that name a master, and a cluster's nodes."""

from typing import Any, NamedTuple, Self
from urllib.parse import unquote

from schemas.errors import OxygenRecError

SENTINEL_PORT = 26379
CLUSTER_PORT = 6379
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
SENTINEL_WANTED = "redis+sentinel://[user:password@]host[:port][,...]/master[/db]"
CLUSTER_WANTED = "redis+cluster://[user:password@]host[:port][,...]; a cluster has no databases"


class RedisUrlInvalid(OxygenRecError):
    """An address that is no single server, no sentinels and no cluster."""

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
        """Returns the address, None for one server's or a cluster's. Raises `RedisUrlInvalid`."""
        scheme, _, rest = url.partition("://")
        if scheme not in SENTINEL_SCHEMES:
            return None
        username, password, places = _credentials(rest)
        hosts, _, path = places.partition("/")
        master, _, db = path.partition("/")
        sentinels = _hosts(hosts, SENTINEL_PORT, SENTINEL_WANTED)
        if not sentinels or not master or not (db or "0").isdecimal():
            raise RedisUrlInvalid(found=f"{scheme}://{places}", wanted=SENTINEL_WANTED)
        return cls(
            sentinels=sentinels,
            master=master,
            db=int(db or "0"),
            username=username,
            password=password,
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


class ClusterAddress(NamedTuple):
    """Some nodes of a cluster (one that answers names all others), and the credentials of all."""

    nodes: list[tuple[str, int]]
    username: str | None
    password: str | None
    tls: bool

    @classmethod
    def of(cls, url: str) -> Self | None:
        """Returns the address, None for another kind's. Raises `RedisUrlInvalid`."""
        scheme, _, rest = url.partition("://")
        if scheme not in CLUSTER_SCHEMES:
            return None
        username, password, places = _credentials(rest)
        hosts, _, db = places.partition("/")
        nodes = _hosts(hosts, CLUSTER_PORT, CLUSTER_WANTED)
        if not nodes or db not in ("", "0"):
            raise RedisUrlInvalid(found=f"{scheme}://{places}", wanted=CLUSTER_WANTED)
        tls = scheme.startswith("rediss")
        return cls(nodes=nodes, username=username, password=password, tls=tls)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the connections to every node."""
        return {"username": self.username, "password": self.password, "ssl": self.tls}


def _credentials(rest: str) -> tuple[str | None, str | None, str]:
    """Returns (user, password, what stands behind them)."""
    credentials, _, places = rest.rpartition("@")
    username, _, password = credentials.partition(":")
    return unquote(username) or None, unquote(password) or None, places


def _hosts(hosts: str, default_port: int, wanted: str) -> list[tuple[str, int]]:
    return [_host_and_port(place, default_port, wanted) for place in hosts.split(",") if place]


def _host_and_port(place: str, default_port: int, wanted: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon:
        return place, default_port
    if not host or not port.isdecimal():
        raise RedisUrlInvalid(found=place, wanted=f"host or host:port in {wanted}")
    return host, int(port)
