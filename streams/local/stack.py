"""Kafka, Redis, Triton and our workers on this machine: started, supervised and stopped together.

    with LocalStack(StackSpec(home=home, topics=topic_table(4))) as stack:
        stack.start_servers()
        ...                                     # fill the topics, train, publish
        stack.start_triton(home / "model_repository")
        stack.start_workers({"router": WorkerSpec(argv=[...])})

`streams.local.foreground.up` does all of it and supervises until Ctrl-C or SIGTERM. Every start is
fresh: the data of an earlier stack in the same folder is removed. Without Java the embedded broker
takes Kafka's place, without Triton the generator runs in process; both are reported.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from msgspec.structs import replace

from streams.local.errors import LocalServerError, StartCancelled, UnknownProcess
from streams.local.kafka import LocalKafka
from streams.local.mock_kafka import MockKafka
from streams.local.ports import LOOPBACK, choose_port
from streams.local.process import LocalProcess, stop_all
from streams.local.redis_server import LocalRedis
from streams.local.scrape import remove_targets, write_targets
from streams.local.servers import choose_triton, open_broker, open_triton
from streams.local.spec import StackSpec
from streams.local.state import (
    Addresses,
    HomeLock,
    StackState,
    record,
    remove_state,
    supervisor_record,
    write_state,
)
from streams.local.triton import LocalTriton, TritonPorts
from streams.local.workers import Worker, WorkerSpec

TICK_S = 0.2
WORKERS_GRACE_S = 15.0  # a consumer commits and leaves its group: Faust takes 2-5 s


class LocalStack:
    """One stack in one folder; leaving its context stops every process it started."""

    def __init__(self, spec: StackSpec) -> None:
        """Takes the folder and removes what an earlier stack left there; starts nothing yet.

        Raises AlreadyRunning, PortInUse, and TritonUnavailable where a server is demanded.
        """
        self.spec = spec
        self.home = spec.home.resolve()
        self.kafka: LocalKafka | MockKafka | None = None
        self.redis: LocalRedis | None = None
        self.triton: LocalTriton | None = None
        self.workers: dict[str, Worker] = {}
        self._servers = self.home / "servers"
        self._supervisor = supervisor_record()
        self._reported: set[str] = set()
        self._launching = threading.RLock()  # nothing is launched once stopping has begun
        self._stopping = False
        self._lock = HomeLock(self.home)
        try:
            http_port = choose_port(spec.http_port, purpose="the HTTP edge")
            self._triton_ports = choose_triton(spec.triton, report=spec.report)
        except LocalServerError:
            self._lock.release()
            raise
        partitions = max((topic.partitions for topic in spec.topics), default=1)
        self.addresses = Addresses(http_port=http_port, kafka_partitions=partitions)
        self._promise_triton(self._triton_ports)
        for leftover in (self._servers, self.home / "logs"):
            shutil.rmtree(leftover, ignore_errors=True)

    def start(self) -> Self:
        """Starts and awaits everything in the spec: Kafka and Redis, then Triton (its models follow
        a topic), then the workers.

        A failure leaves the processes to `stop`, which leaving the context calls.
        """
        self.start_servers()
        if self.spec.model_repository:
            self.start_triton(self.spec.model_repository)
        else:
            self._promise_triton(None)
        return self.start_workers(self.spec.workers)

    def start_servers(self) -> Self:
        """Starts Kafka and Redis, waits for both, and creates the topics."""
        self._launch_servers()
        return self._await_servers()

    def start_triton(self, model_repository: Path) -> Self:
        """Starts Triton on a repository and waits until its models answer.

        Where it cannot run, `triton` stays None and workers are told to generate in process. Its
        address is fixed from the beginning: workers that start before it are told the same one.
        """
        self._launch_triton(model_repository)
        if self.triton:
            self.triton.wait_ready()
        return self

    def start_workers(self, workers: Mapping[str, WorkerSpec]) -> Self:
        """Starts workers side by side and waits until each is ready."""
        for name, spec in workers.items():
            log = self.home / "logs" / f"{name}.log"
            worker = Worker(name, spec, addresses=self.addresses, home=self.home, log=log)
            with self._launch():
                self.workers[name] = worker
                worker.start()
        for name in workers:
            self.workers[name].wait_ready()
        return self

    def supervise(self) -> None:
        """Restarts fallen workers after their delay, and reports servers that died; one round."""
        now_s = time.monotonic()
        for worker in [each for each in self.workers.values() if each.supervised]:
            if (delay_s := worker.fell(now_s)) is not None:
                self._say_fallen(worker.process, f"starts again in {delay_s:g} s")
            elif worker.due(now_s):
                with contextlib.suppress(StartCancelled), self._launch():
                    worker.restart()
        for process in self._server_processes():
            if process.exit_code is None:
                self._reported.discard(process.name)
            elif process.name not in self._reported:
                self._reported.add(process.name)
                self._say_fallen(process, "is not started again: `oxygenrec down`, then `up`")
        for warning in self.kafka.warnings if isinstance(self.kafka, MockKafka) else ():
            if warning not in self._reported:
                self._reported.add(warning)
                self.spec.report(warning)

    def watch(self) -> None:
        """Supervises in a thread of its own until `stop`."""
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    def process(self, name: str) -> LocalProcess:
        """Returns a process by name, for instance to kill it in a test; raises UnknownProcess."""
        processes = {process.name: process for process in self._processes()}
        if name not in processes:
            raise UnknownProcess(name=name, known=sorted(processes))
        return processes[name]

    def stop(self) -> None:
        """Stops the workers, then the servers, and removes the state file; logs stay."""
        with self._launching:
            self._stopping = True
        stop_all([worker.process for worker in self.workers.values()], WORKERS_GRACE_S)
        if self.triton:
            self.triton.stop()
        if self.redis:
            self.redis.stop()
        if isinstance(self.kafka, LocalKafka):
            self.kafka.stop(keep_data=False)
        elif self.kafka:
            self.kafka.stop()
        remove_state(self.home)
        remove_targets(self.home)
        self._lock.release()

    def __enter__(self) -> Self:
        """Starts nothing: what is started inside is stopped at the end."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stops everything."""
        self.stop()

    def _launch_servers(self) -> None:
        spec, folder = self.spec, self._servers / "kafka"
        broker = open_broker(
            spec.broker, folder, nodes=spec.kafka_nodes, port=spec.kafka_port, report=spec.report
        )
        with self._launch():
            self.kafka = broker
            broker.launch()
            if not spec.redis_url:
                self.redis = LocalRedis(self._servers / "redis", port=spec.redis_port)
                self.redis.launch()

    def _await_servers(self) -> Self:
        if self.redis:
            self.redis.wait_ready()
        if self.kafka:
            self.kafka.wait_ready()
            self.addresses = replace(
                self.addresses,
                kafka_bootstrap=self.kafka.bootstrap,
                kafka_replication=self.kafka.replication,
                kafka_check_crcs=self.kafka.check_crcs,
                redis_url=self.redis.url if self.redis else self.spec.redis_url or "",
            )
            self.kafka.ensure_topics(self.spec.topics)
        with self._launch():  # writes down the addresses, unless it was stopped meanwhile
            return self

    def _launch_triton(self, repository: Path) -> None:
        if self._triton_ports is None:
            return
        triton = open_triton(
            self._triton_ports,
            repository,
            self._servers / "triton",
            models=self.spec.models,
            environment=self.addresses.environment(self.home),
            report=self.spec.report,
        )
        self._promise_triton(self._triton_ports if triton else None)
        if triton:
            with self._launch():
                self.triton = triton.launch()

    def _promise_triton(self, ports: TritonPorts | None) -> None:
        self.addresses = replace(
            self.addresses,
            triton_grpc_url=ports.grpc_url if ports else "",
            triton_http_url=ports.http_url if ports else "",
            triton_metrics_url=ports.metrics_url if ports else "",
        )

    @contextlib.contextmanager
    def _launch(self) -> Iterator[None]:
        with self._launching:
            if self._stopping:
                raise StartCancelled
            yield
            self._save()

    def _watch(self) -> None:
        while not self._stopping:
            self.supervise()
            time.sleep(TICK_S)

    def _server_processes(self) -> list[LocalProcess]:
        brokers = self.kafka.processes if self.kafka else []
        others = [server.process for server in (self.redis, self.triton) if server]
        return [*brokers, *others]

    def _processes(self) -> list[LocalProcess]:
        return [*self._server_processes(), *(each.process for each in self.workers.values())]

    def _say_fallen(self, process: LocalProcess, consequence: str) -> None:
        self.spec.report(
            f"{process.name} ended with exit code {process.exit_code} and {consequence};"
            f" its log is {process.log}"
        )

    def _save(self) -> None:
        urls = {
            "kafka": self.addresses.kafka_bootstrap,
            "redis": self.redis.url if self.redis else "",
            "triton": self.addresses.triton_http_url,
        }
        servers = [
            record(process, "server", url=urls.get(process.name, ""))
            for process in self._server_processes()
        ]
        workers = [
            record(worker.process, "worker", url=worker.url, restarts=worker.restarts)
            for worker in self.workers.values()
        ]
        state = StackState(
            supervisor=self._supervisor,
            broker=self.kafka.kind if self.kafka else "kafka",
            triton="server" if self.triton else "in-process",
            addresses=self.addresses,
            processes=[*servers, *workers],
        )
        write_state(self.home, state)
        targets = {name: f"{LOOPBACK}:{each.metrics_port}" for name, each in self.workers.items()}
        if self.triton:
            targets["triton"] = urlsplit(self.addresses.triton_metrics_url).netloc
        write_targets(self.home, targets)
