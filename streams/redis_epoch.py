"""The key `epoch`: it is there as long as Redis holds what the logs say.

A server that comes back empty has lost it. Writers then wait (their scripts and puts raise, and
they try again), so that nothing is decided from half a history, until `oxygenrec restore` has
replayed the logs and sets the key anew. Readers go on: no history, the default instruction.
"""

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from streams.connections import RedisConfig
from streams.redis_client import router_client

EPOCH_KEY = "epoch"


class EpochMissing(ResponseError):
    """Redis was emptied and is not restored yet: a writer waits as for a Redis that is away."""

    def __init__(self) -> None:
        super().__init__(f"Redis holds no key {EPOCH_KEY!r}: run `oxygenrec restore`")


async def require_epoch(client: redis.asyncio.Redis) -> None:
    """Returns where the key is there. Raises `EpochMissing`."""
    if not await client.exists(EPOCH_KEY):
        raise EpochMissing


def begin_epoch(config: RedisConfig, now_ms: int) -> None:
    """Sets the key where there is none: for a Redis that is as new as its logs."""
    with router_client(config) as client:
        client.set(EPOCH_KEY, now_ms, nx=True)
