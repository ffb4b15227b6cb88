"""A real cluster of Redis or Valkey on loopback."""

from pathlib import Path

import pytest
import redis
import redis.cluster

from streams.local.ports import LOOPBACK
from streams.local.redis_cluster import LocalRedisCluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


def test_a_killed_master_comes_back_as_the_same_one_and_empty(tmp_path: Path) -> None:
    with LocalRedisCluster(tmp_path) as cluster:
        with redis.cluster.RedisCluster(host=LOOPBACK, port=cluster.masters[0].port) as client:
            keys = [f"key-{number}" for number in range(30)]
            for key in keys:
                client.set(key, "value")
            lost = cluster.masters[1]
            theirs = [key for key in keys if client.get_node_from_key(key).port == lost.port]
            assert 0 < len(theirs) < len(keys)
            lost.kill()
            lost.start()
            cluster.wait_ready()
            assert [key for key in keys if client.get(key) is None] == theirs
            client.set(theirs[0], "again")
        with redis.Redis(port=lost.port) as node:
            assert node.get(theirs[0]) == b"again"
    assert not any(node.process.alive for node in cluster.nodes)
