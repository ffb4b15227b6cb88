"""A cluster of Redis or Valkey: redis-py's clients, made to fail like those of one server.

While no node tells who has which slots, redis-py raises `RedisClusterException`, which is none of
its `RedisError`s: who waits for a Redis that is away would not wait for a cluster. And it asks only
nodes that it has seen: where all were replaced, it is the configured addresses that still lead in.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import redis.asyncio.cluster
import redis.cluster
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import NoScriptError, RedisClusterException


class ScriptCall(NamedTuple):
    """What one call of a Lua script is given; its keys lie in one slot."""

    keys: Sequence[str]
    arguments: Sequence[Any]


class AsyncCluster(redis.asyncio.cluster.RedisCluster):
    """The edge's client; its commands and pipelines are those of one server's client."""

    async def initialize(self, *args: Any, **kwargs: Any) -> Self:
        """Learns who has which slots. Raises redis' `ConnectionError` where nobody says."""
        try:
            await super().initialize(*args, **kwargs)
        except RedisClusterException as error:
            self.nodes_manager.startup_nodes = {node.name: node for node in self.startup_nodes}
            raise NotConnected(str(error)) from error
        return self


class RouterCluster:
    """The router's client of a cluster: a batch of script calls is one round trip to all masters.

    It connects when it is first asked, as one server's client does.
    """

    def __init__(self, connect: Callable[[], redis.cluster.RedisCluster]) -> None:
        self._connect = connect
        self._connected: redis.cluster.RedisCluster | None = None

    def evaluate(self, source: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Returns every call's answer, in order. Raises redis' errors, the first one's.

        After an error any of the calls may have taken effect.
        """
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        with self._failing_like_one_server() as cluster:
            try:
                return _evaluate(cluster, sha, calls)
            except NoScriptError:  # a master that is new, by itself or to this cluster
                cluster.script_load(source)
                return _evaluate(cluster, sha, calls)

    def set(self, key: str, value: Any, *, nx: bool = False) -> Any:
        """Sets a key; `nx`: where there is none. Raises redis' errors."""
        with self._failing_like_one_server() as cluster:
            return cluster.set(key, value, nx=nx)

    def close(self) -> None:
        """Closes the connections."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _failing_like_one_server(self) -> Iterator[redis.cluster.RedisCluster]:
        try:
            if self._connected is None:
                self._connected = self._connect()
            yield self._connected
        except RedisClusterException as error:
            self.close()
            raise NotConnected(str(error)) from error


def _evaluate(cluster: Any, sha: str, calls: Sequence[ScriptCall]) -> list[Any]:
    with cluster.pipeline() as pipeline:
        for call in calls:
            # The node is named here: redis-py would compute the slot of each of a call's keys.
            pipeline.execute_command(
                *("EVALSHA", sha, len(call.keys), *call.keys, *call.arguments),
                target_nodes=cluster.get_node_from_key(call.keys[0]),
            )
        answers: list[Any] = pipeline.execute()
    return answers
