"""Redis within the edge's deadline: an answer in time, or a degraded slate with the cause."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from schemas.errors import OxygenRecError

T = TypeVar("T")

# After a pause of this process the loop fires timers first and reads sockets second: an answer that
# has long arrived is not late.
GRACE_S = 0.003


class Degraded(OxygenRecError):
    """No generated slate can be made for this request, because of `cause`."""

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(f"degraded: {cause}")


async def redis_within(milliseconds: int, reading: Awaitable[T]) -> T:
    """Returns what is read from Redis. Raises `Degraded` (redis_late or redis_gone).

    A late read is left to end by itself: cancelling it would cost its connection, and the next
    request, which has to open one, would be late because of it.
    """
    task = asyncio.ensure_future(reading)
    done, _ = await asyncio.wait({task}, timeout=milliseconds / 1_000)
    if not done:
        done, _ = await asyncio.wait({task}, timeout=GRACE_S)
    if not done:
        task.add_done_callback(_forget)
        raise Degraded("redis_late")
    try:
        return task.result()
    except RedisTimeout as error:
        raise Degraded("redis_late") from error
    except (RedisError, OSError) as error:
        raise Degraded("redis_gone") from error


def _forget(task: asyncio.Future[T]) -> None:
    """Takes a late read's outcome, so that the loop does not report it as never retrieved."""
    if not task.cancelled():
        task.exception()
