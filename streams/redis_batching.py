"""One pipeline for what many tasks ask of Redis at once: half the CPU of a call each.

redis-py takes about 110 µs of CPU a call (connection from the pool, two timers, one send), of which
the command itself is a small part. A worker with 64 users in hand asks for dozens in one turn of
its event loop; they go out together, and each caller gets its own answer or its own error.
"""

import asyncio
from typing import Any, cast

import redis.asyncio
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import AskError, RedisError, TryAgainError

from streams.redis_cluster import AsyncCluster

# Nobody waits long behind the others, and an answer of thousands is not held in memory at once.
MOST_COMMANDS = 128

_Asked = tuple[tuple[Any, ...], dict[str, Any], asyncio.Future[Any]]


class Batching:
    """Mixed into a client: single commands of one turn of the event loop share a round trip.

    Commands keep the order in which they were asked for within a batch, as in one pipeline; two
    batches may overtake each other, as two calls may that nobody awaits. A pipeline that the caller
    opens stays a round trip of its own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked: list[_Asked] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Returns the command's answer. Raises what Redis answered to it, or why none came."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._asked.append((args, options, answer))
        if len(self._asked) == 1:
            loop.call_soon(self._send)
        return await answer

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), MOST_COMMANDS):
            task = asyncio.ensure_future(self._exchange(asked[start : start + MOST_COMMANDS]))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _exchange(self, asked: list[_Asked]) -> None:
        try:
            answers = await self._answers(asked)
        except (RedisError, OSError) as error:
            answers = [error] * len(asked)
        except BaseException:
            for _, _, future in asked:
                future.cancel()
            raise
        for (_, _, future), answer in zip(asked, answers, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _answers(self, asked: list[_Asked], **how: Any) -> list[Any]:
        """Returns answers and errors, in order. Raises where there is none to anything."""
        async with cast(Any, self).pipeline(transaction=False) as pipeline:
            for args, options, _ in asked:
                pipeline.execute_command(*args, **options)
            answers: list[Any] = await pipeline.execute(raise_on_error=False, **how)
        return answers


class BatchingRedis(Batching, redis.asyncio.Redis):  # type: ignore[misc]  # redis-py's mixins
    """One server's client of a worker."""


class BatchingCluster(Batching, AsyncCluster):  # type: ignore[misc]  # redis-py's mixins
    """A cluster's client of a worker: one round trip to each master concerned, all at once.

    What concerns no key, or names its nodes, goes out alone; so does, a second time, what a master
    sent elsewhere: redis-py learns from single commands where slots have moved to.
    """

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Returns the command's answer. Raises what Redis answered to it, or why none came."""
        if args[0] in self.command_flags or "target_nodes" in options:
            return await RedisCluster.execute_command(self, *args, **options)
        return await super().execute_command(*args, **options)

    async def _answers(self, asked: list[_Asked], **how: Any) -> list[Any]:
        answers = await super()._answers(asked, allow_redirections=False, **how)
        for place, answer in enumerate(answers):
            if isinstance(answer, (AskError, TryAgainError)):  # a MovedError is an AskError
                args, options, _ = asked[place]
                try:
                    answers[place] = await RedisCluster.execute_command(self, *args, **options)
                except (RedisError, OSError) as error:
                    answers[place] = error
        return answers
