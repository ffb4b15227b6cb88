"""Redis within a deadline: late and gone have their causes, and a pause of ours is neither."""

import asyncio
import socket
import time

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from agents.edge.redis_deadline import Degraded, redis_within


async def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RedisConnectionError("refused"), "redis_gone"),
        (OSError("reset"), "redis_gone"),
        (RedisTimeoutError("socket"), "redis_late"),
    ],
)
async def test_a_fault_of_redis_is_named(error: Exception, cause: str) -> None:
    with pytest.raises(Degraded) as raised:
        await redis_within(10, failing(error))
    assert raised.value.cause == cause


async def test_a_late_read_is_left_to_end_by_itself() -> None:
    answered, ended = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        await answered.wait()
        ended.set()
        raise RedisConnectionError("nobody asks for this any more")

    with pytest.raises(Degraded, match="redis_late"):
        await redis_within(5, slow())
    assert not ended.is_set()
    answered.set()
    await asyncio.wait_for(ended.wait(), 5)


def test_an_answer_that_arrived_while_this_process_was_paused_is_not_late() -> None:
    """On the edge's own loop, which fires timers before it reads sockets."""

    async def paused() -> bytes:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()

            async def read() -> bytes:
                return await asyncio.create_task(loop.sock_recv(ours, 1))

            theirs.send(b"x")
            loop.call_soon(time.sleep, 0.05)  # the machine gives the CPU to others
            return await redis_within(10, read())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(paused()) == b"x"
