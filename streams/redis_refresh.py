"""The walk of the daily refresh over `history:{user}`, and how far it has come (key `refresh`).

SCAN returns every key that is there from the first call to the last, in pages; its cursor is the
server's alone: after a restart it points anywhere, so the server's run id is kept beside it. In a
cluster it is walked master after master, and what is kept tells of all of them and of their slots:
one that moved meanwhile, from a master ahead to one behind, would be left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import redis.asyncio
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError as NotConnected

from streams.redis_epoch import EpochMissing, Epochs
from streams.redis_keys import EPOCH_KEY, buckets_of, history_key
from streams.redis_servers import masters_of

PROGRESS_KEY = "refresh"
_PREFIX = history_key("").encode()


class RefreshProgress(msgspec.Struct, frozen=True, kw_only=True):
    """All before `cursor` of the master `node` (0: the first, or the only one) has been refreshed.

    `server` is whose cursor it is.
    """

    server: str
    begun_ms: int
    node: int = 0
    cursor: int = 0
    keys: int = 0  # walked
    users: int = 0  # refreshed


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One step of the walk: where to go on, keys walked and there are, and users."""

    server: str
    node: int = 0
    cursor: int
    keys: int
    keys_there_are: int
    users: list[str]

    @property
    def last(self) -> bool:
        """Whether this is the end: the next step would be the first again."""
        return self.node == 0 and self.cursor == 0


class RedisRefresh:
    """Walks users page by page (`agents.refresh.RefreshStore`)."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._buckets = buckets_of(client)

    async def progress(self) -> RefreshProgress | None:
        """Returns how far a run came that was not finished."""
        kept = await self._client.get(PROGRESS_KEY)
        return (
            None if kept is None else msgspec.json.decode(cast(bytes, kept), type=RefreshProgress)
        )

    async def save(self, progress: RefreshProgress) -> None:
        """Keeps how far the run has come."""
        await self._client.set(PROGRESS_KEY, msgspec.json.encode(progress))

    async def finish(self) -> None:
        """Forgets the run: the next one begins at the start."""
        await self._client.delete(PROGRESS_KEY)

    async def page(self, node: int, cursor: int, count: int) -> Page:
        """Returns about `count` keys' users from there on. Raises redis' errors.

        `EpochMissing` is one.
        """
        unlike: object = self._client  # a cluster's client only passes for one server's
        if isinstance(unlike, RedisCluster):
            return await self._page_of_cluster(unlike, node, cursor, count)
        return await self._page_of_server(cursor, count)

    async def _page_of_server(self, cursor: int, count: int) -> Page:
        """All in one round trip, so that page and server belong together."""
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.exists(EPOCH_KEY)
            pipeline.info("server")
            pipeline.dbsize()
            pipeline.scan(cursor, count=count)
            epoch, server, there_are, (following, keys) = await pipeline.execute()
        if not epoch:
            raise EpochMissing(EPOCH_KEY)
        return Page(
            server=server["run_id"],
            cursor=int(following),
            keys=len(keys),
            keys_there_are=there_are,
            users=_users(keys),
        )

    async def _page_of_cluster(
        self, cluster: RedisCluster, node: int, cursor: int, count: int
    ) -> Page:
        masters = await masters_of(cluster)
        await Epochs(self._client).require()
        asked: Any = cluster  # redis-py types these commands for one server
        there_are = await asked.dbsize(target_nodes=masters.nodes)
        walked = masters.nodes[node % len(masters.nodes)]  # beyond the last: fewer than there were
        following, keys = await asked.scan(cursor, count=count, target_nodes=[walked])
        if (await masters_of(cluster)).identity != masters.identity:
            raise NotConnected("the cluster changed while a page was read")
        cursor = following[walked.name]
        return Page(
            server=masters.identity,
            node=node if cursor else (node + 1) % len(masters.nodes),
            cursor=cursor,
            keys=len(keys),
            keys_there_are=there_are,
            users=_users(keys),
        )

    async def newest_before(
        self, users: Sequence[str], times_ms: Sequence[int]
    ) -> list[int | None]:
        """Returns the time of each user's newest action before the time beside it, in order."""
        if not users:
            return []
        async with self._client.pipeline(transaction=False) as pipeline:
            for user, time_ms in zip(users, times_ms, strict=True):
                key = self._buckets.tag(user) + history_key(user)
                pipeline.zrevrangebyscore(
                    key, f"({time_ms}", "-inf", start=0, num=1, withscores=True
                )
            found: list[list[tuple[Any, float]]] = await pipeline.execute()
        return [int(one[0][1]) if one else None for one in found]


def _users(keys: Sequence[bytes]) -> list[str]:
    """Returns whose history these keys are; the tag of a bucket ends with the first brace."""
    bare = (key.partition(b"}")[2] if key.startswith(b"{") else key for key in keys)
    return [key.removeprefix(_PREFIX).decode() for key in bare if key.startswith(_PREFIX)]
