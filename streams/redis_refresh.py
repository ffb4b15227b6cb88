"""The walk of the daily refresh over `history:{user}`, and how far it has come (key `refresh`).

SCAN returns every key that is there from the first call to the last, in pages; its cursor is the
server's alone: after a restart it points anywhere, so the server's run id is kept beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import redis.asyncio

from streams.redis_epoch import EPOCH_KEY, EpochMissing
from streams.redis_history import history_key

PROGRESS_KEY = "refresh"
_PREFIX = history_key("").encode()


class RefreshProgress(msgspec.Struct, frozen=True, kw_only=True):
    """All before `cursor` has been refreshed in this run; `server` is whose cursor it is."""

    server: str
    begun_ms: int
    cursor: int = 0
    keys: int = 0  # walked
    users: int = 0  # refreshed


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One step of the walk: the next cursor (0: the end), keys walked and there are, and users."""

    server: str
    cursor: int
    keys: int
    keys_there_are: int
    users: list[str]


class RedisRefresh:
    """Walks users page by page (`agents.refresh.RefreshStore`)."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

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

    async def page(self, cursor: int, count: int) -> Page:
        """Returns about `count` keys' users from the cursor on. Raises redis' errors.

        `EpochMissing` is one. All in one round trip, so that page and server belong together.
        """
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.exists(EPOCH_KEY)
            pipeline.info("server")
            pipeline.dbsize()
            pipeline.scan(cursor, count=count)
            epoch, server, there_are, (following, keys) = await pipeline.execute()
        if not epoch:
            raise EpochMissing
        users = [key.removeprefix(_PREFIX).decode() for key in keys if key.startswith(_PREFIX)]
        return Page(
            server=server["run_id"],
            cursor=int(following),
            keys=len(keys),
            keys_there_are=there_are,
            users=users,
        )

    async def newest_before(
        self, users: Sequence[str], times_ms: Sequence[int]
    ) -> list[int | None]:
        """Returns the time of each user's newest action before the time beside it, in order."""
        if not users:
            return []
        async with self._client.pipeline(transaction=False) as pipeline:
            for user, time_ms in zip(users, times_ms, strict=True):
                pipeline.zrevrangebyscore(
                    history_key(user), f"({time_ms}", "-inf", start=0, num=1, withscores=True
                )
            found: list[list[tuple[Any, float]]] = await pipeline.execute()
        return [int(one[0][1]) if one else None for one in found]
