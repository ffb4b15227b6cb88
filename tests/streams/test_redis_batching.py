"""Many tasks' commands in one round trip: each gets its own answer, its own error, or none."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import ResponseError

from streams.connections import RedisConfig
from streams.local.redis_server import LocalRedis
from streams.redis_batching import MOST_COMMANDS
from streams.redis_client import worker_client

pytestmark = pytest.mark.integration


@pytest.fixture
async def client(redis_server: LocalRedis) -> AsyncIterator[redis.asyncio.Redis]:
    made = worker_client(RedisConfig(url=redis_server.url))
    yield made
    await made.aclose()


@pytest.fixture
def key() -> str:
    return f"batching-{uuid.uuid4().hex}"


async def test_commands_of_one_turn_share_a_connection_and_each_gets_its_answer(
    client: redis.asyncio.Redis, key: str
) -> None:
    said = [str(number) for number in range(MOST_COMMANDS)]
    assert await asyncio.gather(*(client.echo(one) for one in said)) == [s.encode() for s in said]
    opened = len(cast(Any, client.connection_pool)._available_connections)
    assert opened == 1  # redis-py alone would have opened one each
    more = await asyncio.gather(*(client.incr(key) for _ in range(3 * MOST_COMMANDS)))
    assert sorted(more) == list(range(1, 3 * MOST_COMMANDS + 1))


async def test_an_error_reaches_the_one_who_asked_and_nobody_else(
    client: redis.asyncio.Redis, key: str
) -> None:
    await client.set(key, "text")
    before, wrong, after = await asyncio.gather(
        client.get(key), client.lpush(key, "x"), client.get(key), return_exceptions=True
    )
    assert (before, after) == (b"text", b"text")
    assert isinstance(wrong, ResponseError)


async def test_a_script_that_redis_does_not_know_is_loaded_by_whoever_asks(
    client: redis.asyncio.Redis, key: str
) -> None:
    count = client.register_script(f"return redis.call('INCRBY', KEYS[1], 1) -- {key}")
    assert sorted(await asyncio.gather(*(count(keys=[key]) for _ in range(5)))) == [1, 2, 3, 4, 5]


async def test_a_caller_that_gives_up_takes_nobodys_answer_with_it(
    client: redis.asyncio.Redis, key: str
) -> None:
    left = asyncio.ensure_future(client.set(key, "1"))
    stayed = asyncio.ensure_future(client.echo("here"))
    await asyncio.sleep(0)
    left.cancel()
    assert await stayed == b"here"
    with pytest.raises(asyncio.CancelledError):
        await left


async def test_everybody_hears_that_redis_is_away() -> None:
    client = worker_client(RedisConfig(url="redis://127.0.0.1:1/0"))
    answers = await asyncio.gather(client.get("a"), client.get("b"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [NotConnected, NotConnected]
    await client.aclose()
