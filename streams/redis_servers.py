"""Which servers hold the keys, and since when: what a cursor or a replay must not outlive.

A server that was started anew has another run id. A cluster is another one as soon as a master was
started anew, was replaced by its replica, or gave slots away.
"""

import asyncio
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError as NotConnected


@dataclass(frozen=True, slots=True)
class Masters:
    """A cluster's masters by their first slot, and the identity of all of it."""

    identity: str
    nodes: list[ClusterNode]


async def identity_of(client: redis.asyncio.Redis) -> str:
    """Returns what stays the same until memory may have been lost. Raises redis' errors."""
    unlike: object = client  # a cluster's client only passes for one server's (redis_client)
    if isinstance(unlike, RedisCluster):
        return (await masters_of(unlike)).identity
    run_id: str = (await client.info("server"))["run_id"]
    return run_id


async def masters_of(cluster: RedisCluster) -> Masters:
    """Returns the masters as the cluster has them now. Raises redis' errors."""
    await cluster.initialize()
    asked: Any = cluster  # redis-py types these commands for one server
    slots = sorted((await asked.cluster_slots()).items())
    owners = [(f"{first}-{last}", held["primary"]) for (first, last), held in slots]
    nodes: dict[tuple[str, int], ClusterNode] = {}
    for _, (host, port) in owners:
        node = cluster.get_node(host, port)
        if node is None:
            await cluster.aclose()  # the next call learns of it
            raise NotConnected(f"the cluster has just got a master at {host}:{port}")
        nodes[host, port] = node
    told = await asyncio.gather(
        *(asked.info("server", target_nodes=[node]) for node in nodes.values())
    )
    run_ids = dict(zip(nodes, (one["run_id"] for one in told), strict=True))
    held = ",".join(f"{span}={run_ids[owner]}" for span, owner in owners)
    return Masters(blake2b(held.encode(), digest_size=20).hexdigest(), list(nodes.values()))
