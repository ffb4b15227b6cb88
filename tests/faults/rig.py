"""The servers and workers of a run: three Kafka nodes, one Redis, six workers as processes.

Workers and clients reach Kafka and Redis through networks that can be held (`tests.faults.proxy`).
"""

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from schemas.topics import topic_table
from streams.connections import KafkaConfig, RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.ports import LOOPBACK, free_ports
from streams.local.redis_server import LocalRedis
from streams.producer import RecordProducer
from streams.redis_epoch import begin_epoch
from streams.windows import WindowConfig
from tests.agents.near_line import PARTITIONS, WorkerProcess, fit_generation, worker_environment
from tests.faults.edge_client import EdgeClient
from tests.faults.proxy import Proxy

WORKERS = (
    *("edge", "router", "window-aggregator", "instruction-writer", "reward-joiner"),
    "catalog-indexer",  # the profile writer is in its process
)
WINDOWS = WindowConfig(window_ms=2_000, grace_ms=1_000)  # as `worker_environment` sets them
ATTRIBUTION_MS = 3_000
SUPERVISED_EVERY_S = 0.5
EDGE_STARTS_WITHIN_S = 60.0


class Rig:
    """Starts everything, starts workers again that ended by themselves, and stops it by id."""

    def __init__(self, folder: Path, *, nodes: int = 3) -> None:
        *kafka_ports, redis_port, edge_port = free_ports(nodes + 2)
        self.kafka = LocalKafka(folder / "kafka", nodes=nodes, advertised_ports=kafka_ports)
        self.redis = LocalRedis(folder / "redis")
        self.to_kafka = Proxy(dict(zip(kafka_ports, self.kafka.ports, strict=True)))
        self.to_redis = Proxy({redis_port: self.redis.port})
        self.edge_url = f"http://{LOOPBACK}:{edge_port}"
        self.folder = folder
        self.restarts = 0  # of workers that ended by themselves
        self.workers: dict[str, WorkerProcess] = {}
        self._ended = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._networks = ExitStack()
        self.environment = worker_environment(
            *(self.kafka.bootstrap, f"redis://{LOOPBACK}:{redis_port}/0", folder),
            OXYGENREC_HTTP__PORT=str(edge_port),
            OXYGENREC_ROUTER__HISTORY_LENGTH="100000",  # all of it is compared
            OXYGENREC_REWARDS__ATTRIBUTION_MS=str(ATTRIBUTION_MS),
            OXYGENREC_REWARDS__LIVE_LAG_MS="500",
        )

    def __enter__(self) -> Self:
        try:
            (self.folder / "redis").mkdir(parents=True, exist_ok=True)
            for network in (self.to_kafka, self.to_redis):
                self._networks.enter_context(network)
            self.redis.start()
            self.kafka.start().ensure_topics(topic_table(PARTITIONS))
            begin_epoch(RedisConfig(url=self.redis.url), now_ms=0)
            fit_generation(self.folder)
            for name in WORKERS:
                self.add_worker(name)
            self._supervisor.start()
            self._until_edge_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop()

    def producer(self) -> RecordProducer:
        """Returns a producer as any client has it."""
        return RecordProducer(KafkaConfig(bootstrap=self.kafka.bootstrap), "faults")

    def edge_client(self) -> EdgeClient:
        """Returns a client of the edge."""
        return EdgeClient(self.edge_url)

    def add_worker(self, name: str, *, beside: str = "") -> None:
        """Starts a worker; `beside` names one more member of the same group."""
        folder = self.folder / "logs" / (beside or "first")
        folder.mkdir(parents=True, exist_ok=True)
        self.workers[beside or name] = WorkerProcess(name, self.environment, folder)

    def remove_worker(self, name: str) -> WorkerProcess:
        """Takes a worker out of the supervisor's sight and returns it, still running."""
        return self.workers.pop(name)

    def restore(self) -> None:
        """`oxygenrec restore`, as an operator runs it."""
        subprocess.run(
            [sys.executable, "-m", "agents.cli", "restore"],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            timeout=120,
        )

    def _until_edge_answers(self) -> None:
        deadline = time.monotonic() + EDGE_STARTS_WITHIN_S
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                httpx.get(f"{self.edge_url}/healthz").raise_for_status()
                return
            time.sleep(SUPERVISED_EVERY_S)
        raise TimeoutError(f"no edge at {self.edge_url}; see {self.folder / 'logs'}")

    def _supervise(self) -> None:
        while not self._ended.wait(SUPERVISED_EVERY_S):
            for worker in list(self.workers.values()):
                if worker.ended:
                    self.restarts += 1
                    worker.restart()

    def _stop(self) -> None:
        self._ended.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for worker in self.workers.values():
            if not worker.ended:
                worker.kill()
        self.kafka.stop(keep_data=False)
        self.redis.stop()
        self._networks.close()
