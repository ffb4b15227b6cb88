"""A cluster of Redis or Valkey on loopback, for development and tests: masters, and their replicas.

Each node is a `LocalRedis` that keeps one small file, `nodes.conf`: who it is. A node that was
killed and starts again is the same master of the same slots, and empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from streams.local.errors import ServerNotReady
from streams.local.ports import LOOPBACK, free_ports
from streams.local.process import POLL_S, stop_all, tail
from streams.local.redis_server import READY_TIMEOUT_S, LocalRedis

NODE_TIMEOUT_MS = 5_000  # a busy machine's pause is no failure; a test of a failover says less


class LocalRedisCluster:
    """Starts and stops masters with equal ranges of slots; the logs are under `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        masters: int = 3,
        replicas: int = 0,
        node_timeout_ms: int = NODE_TIMEOUT_MS,
    ) -> None:
        """Chooses the program and the ports; the n-th replica is the n-th master's.

        Raises RedisMissing.
        """
        ports = free_ports(2 * (masters + replicas))
        self._bus = dict(zip(ports[::2], ports[1::2], strict=True))
        nodes = [
            LocalRedis(
                _made(folder / f"node-{number}"),
                port=port,
                options=[
                    *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                    *("--cluster-config-file", "nodes.conf"),
                    *("--cluster-node-timeout", str(node_timeout_ms)),
                ],
            )
            for number, (port, bus) in enumerate(self._bus.items())
        ]
        self.masters, self.replicas = nodes[:masters], nodes[masters:]
        places = ",".join(f"{LOOPBACK}:{node.port}" for node in nodes)
        self.url = f"redis+cluster://{places}"

    @property
    def nodes(self) -> list[LocalRedis]:
        """Masters and replicas, as they were at the start."""
        return [*self.masters, *self.replicas]

    def start(self) -> Self:
        """Starts all nodes and makes them a cluster; a failed start leaves no process."""
        try:
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait_ready()
            self._join()
            return self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Returns when every node says that the cluster is whole; raises ServerNotReady."""
        for node in self.nodes:
            self._until(node, lambda client: _info(client)["cluster_state"] == "ok", timeout_s)
        return self

    def stop(self) -> None:
        """Stops it; its content is gone."""
        stop_all([node.process for node in self.nodes], grace_s=5.0)

    def __enter__(self) -> Self:
        """Starts the cluster."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stops the cluster."""
        self.stop()

    def _join(self) -> None:
        with ExitStack() as opened:
            clients: list[Any] = [
                opened.enter_context(closing(redis.Redis(port=node.port))) for node in self.nodes
            ]
            count = len(self.masters)
            edges = [REDIS_CLUSTER_HASH_SLOTS * n // count for n in range(count + 1)]
            for number, client in enumerate(clients):
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                if number < count:
                    slots = edges[number], edges[number + 1] - 1
                    client.execute_command("CLUSTER ADDSLOTSRANGE", *slots)
                for port, bus in self._bus.items():
                    client.execute_command("CLUSTER MEET", LOOPBACK, port, bus)
            for node in self.nodes:
                self._until(node, self._knows_all)
            for master, replica in zip(clients, clients[count:], strict=False):
                replica.execute_command("CLUSTER REPLICATE", master.execute_command("CLUSTER MYID"))
            for node in self.replicas:
                self._until(node, lambda client: client.info()["master_link_status"] == "up")

    def _knows_all(self, client: Any) -> bool:
        return int(_info(client)["cluster_known_nodes"]) == len(self.nodes)

    def _until(
        self, node: LocalRedis, wanted: Callable[[Any], bool], timeout_s: float = READY_TIMEOUT_S
    ) -> None:
        deadline = time.monotonic() + timeout_s
        with closing(redis.Redis(port=node.port)) as client:
            while not wanted(client):
                if time.monotonic() > deadline:
                    log = node.process.log
                    raise ServerNotReady(
                        name="redis cluster", timeout_s=timeout_s, log=log, tail=tail(log)
                    )
                time.sleep(POLL_S)


def _info(client: Any) -> dict[str, str]:
    """Returns what `CLUSTER INFO` says."""
    said: dict[str, str] = client.execute_command("CLUSTER INFO")
    return said


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
