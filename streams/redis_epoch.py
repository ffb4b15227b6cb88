"""The key `epoch` of each bucket: it is there as long as Redis holds what the logs say.

A server that comes back empty has lost it, a cluster's master the epochs of its buckets
(`streams/redis_keys.py`). Writers then wait (their scripts and puts raise, and they try again),
so that nothing is decided from half a history, until `oxygenrec restore` has replayed the logs and
sets the keys anew. Readers go on: no history, the default instruction.
"""

from collections.abc import Collection

import redis.asyncio
from redis.exceptions import ResponseError

from streams.connections import RedisConfig
from streams.redis_client import router_client
from streams.redis_keys import EPOCH_KEY, buckets_of


class EpochMissing(ResponseError):
    """Redis was emptied and is not restored yet: a writer waits as for a Redis that is away."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys
        super().__init__(f"Redis holds no key {', '.join(keys)}: run `oxygenrec restore`")


class Epochs:
    """The epochs of all buckets, for whoever concerns more than one."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._tags = buckets_of(client).tags

    async def missing(self, tags: Collection[str] | None = None) -> list[str]:
        """Returns which of the keys of these buckets (of all, by default) are not there."""
        keys = [tag + EPOCH_KEY for tag in (self._tags if tags is None else tags)]
        async with self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.exists(key)
            held = await pipeline.execute()
        return [key for key, there in zip(keys, held, strict=True) if not there]

    async def require(self, tags: Collection[str] | None = None) -> None:
        """Returns where the keys are there. Raises `EpochMissing`."""
        if missing := await self.missing(tags):
            raise EpochMissing(*missing)

    async def end(self) -> None:
        """Deletes the keys: all writers wait from now on."""
        await self._client.delete(*(tag + EPOCH_KEY for tag in self._tags))

    async def begin(self, now_ms: int) -> None:
        """Sets the keys: the writers go on."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for tag in self._tags:
                pipeline.set(tag + EPOCH_KEY, now_ms)
            await pipeline.execute()


def begin_epoch(config: RedisConfig, now_ms: int) -> None:
    """Sets the keys where there are none: for a Redis that is as new as its logs."""
    with router_client(config) as client:
        for tag in buckets_of(client).tags:
            client.set(tag + EPOCH_KEY, now_ms, nx=True)
