"""Many tasks' commands in one round trip: each gets its own answer, its own error, or none.

On a cluster in one round trip to each master.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import ResponseError

from streams.connections import RedisConfig
from streams.redis_batching import MOST_COMMANDS, BatchingCluster
from streams.redis_client import worker_client

pytestmark = pytest.mark.integration


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    made = worker_client(RedisConfig(url=redis_url))
    yield made
    await made.aclose()


@pytest.fixture
def key() -> str:
    return f"batching-{uuid.uuid4().hex}"


async def test_commands_of_one_turn_share_a_connection_and_each_gets_its_answer(
    client: redis.asyncio.Redis, key: str
) -> None:
    keys = [f"{key}-{number}" for number in range(MOST_COMMANDS)]
    await asyncio.gather(*(client.set(one, one) for one in keys))
    assert await asyncio.gather(*map(client.get, keys)) == [one.encode() for one in keys]
    assert set(connections(client)) <= {0, 1}  # redis-py alone would have opened one each
    more = await asyncio.gather(*(client.incr(key) for _ in range(3 * MOST_COMMANDS)))
    assert sorted(more) == list(range(1, 3 * MOST_COMMANDS + 1))


def connections(client: redis.asyncio.Redis) -> list[int]:
    """Returns how many connections were opened to each server."""
    asked = cast(Any, client)
    if isinstance(asked, BatchingCluster):
        return [len(node._connections) for node in asked.get_primaries()]
    return [len(asked.connection_pool._available_connections)]


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
    stayed = asyncio.ensure_future(client.incr(f"{key}-here"))
    await asyncio.sleep(0)
    left.cancel()
    assert await stayed == 1
    with pytest.raises(asyncio.CancelledError):
        await left


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis+cluster://127.0.0.1:1"])
async def test_everybody_hears_that_redis_is_away(url: str) -> None:
    client = worker_client(RedisConfig(url=url))
    answers = await asyncio.gather(client.get("a"), client.get("b"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [NotConnected, NotConnected]
    await client.aclose()
