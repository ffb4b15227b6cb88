"""A real Apache Kafka (KRaft) on loopback: one or three combined nodes on free ports."""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from confluent_kafka import KafkaException

from schemas.topics import Topic
from streams.local.broker import admin_client, create_topics
from streams.local.kafka_jars import Java, find_java, jars_folder, kafka_jars
from streams.local.ports import LOOPBACK, choose_port, free_ports, listening
from streams.local.process import LocalProcess, stop_all

HEAP_MB = 256  # 290 MB resident; one node carries 20k records/s with it
READY_TIMEOUT_S = 60.0  # 2-4 s here; a first start without a class archive on a busy machine: 20 s
# Short starts, not peak speed: one thread of garbage collection, the quick compiler only.
JVM_FLAGS = (
    f"-Xmx{HEAP_MB}m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def node_properties(
    node: int,
    *,
    ports: Sequence[int],
    controller_ports: Sequence[int],
    data: Path,
    advertised_ports: Sequence[int] = (),
    replication_ports: Sequence[int] = (),
) -> dict[str, str]:
    """Returns server.properties of node `node` (from 1) of a cluster with these ports.

    With `advertised_ports` clients are sent there, and the nodes talk to each other on
    `replication_ports`.
    """
    nodes = len(ports)
    replication, in_sync = str(min(nodes, 3)), "2" if nodes >= 3 else "1"
    voters = ",".join(f"{i}@{LOOPBACK}:{port}" for i, port in enumerate(controller_ports, 1))
    client = advertised = f"PLAINTEXT://{LOOPBACK}:{ports[node - 1]}"
    between_nodes = "PLAINTEXT"
    if advertised_ports:
        between_nodes = "REPLICATION"
        replication_listener = f"{between_nodes}://{LOOPBACK}:{replication_ports[node - 1]}"
        client = f"{client},{replication_listener}"
        advertised = f"PLAINTEXT://{LOOPBACK}:{advertised_ports[node - 1]},{replication_listener}"
    internal = {
        f"{topic}.{key}": value
        for topic in ("transaction.state.log", "share.coordinator.state.topic")
        for key, value in (
            ("replication.factor", replication),
            ("min.isr", in_sync),
            ("num.partitions", "1"),
        )
    }
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "log.dirs": str(data),
        "controller.quorum.voters": voters,
        "listeners": f"{client},CONTROLLER://{LOOPBACK}:{controller_ports[node - 1]}",
        "advertised.listeners": advertised,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": ",".join(
            f"{name}:PLAINTEXT" for name in ("CONTROLLER", "PLAINTEXT", "REPLICATION")
        ),
        "inter.broker.listener.name": between_nodes,
        # A misspelt topic must fail, not appear with default settings.
        "auto.create.topics.enable": "false",
        "num.partitions": "4",
        "default.replication.factor": replication,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replication,
        "offsets.topic.num.partitions": "4",
        **internal,
        # The first member of a group does not wait 3 s for others.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # A killed node is fenced after 3 s instead of 9: that long its partitions stand still.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
    }


def _kafka_id() -> str:
    # Kafka's ids are 16 bytes in URL-safe base64; one that begins with "-" is refused.
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


class LocalKafka:
    """Starts, kills and restarts the nodes of one cluster; its data is in `folder`.

    A folder that holds a cluster is started again with its data, on new ports.
    """

    kind: Literal["kafka", "mock"] = "kafka"
    check_crcs = True
    durable = True

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        port: int | None = None,
        advertised_ports: Sequence[int] = (),
    ) -> None:
        """Prepares a cluster; `port` fixes the port of a single node's listener.

        `advertised_ports`, one a node: where clients are sent, and where something must listen that
        leads on to `ports`. Raises JavaMissing, KafkaJarsUnavailable, PortInUse.
        """
        self.folder = folder.resolve()
        self.replication = min(nodes, 3)
        self._java = find_java()
        self._class_path = os.pathsep.join(map(str, kafka_jars(self._java)))
        free = free_ports(3 * nodes)
        self.ports, controller_ports = free[:nodes], free[nodes : 2 * nodes]
        if nodes == 1:
            self.ports = [choose_port(port, purpose="Kafka")]
        self.bootstrap = ",".join(f"{LOOPBACK}:{p}" for p in advertised_ports or self.ports)
        self._archive = class_archive(self._java)
        self._write_nodes(controller_ports, advertised_ports, free[2 * nodes :])
        self._nodes = {node: self._process(node) for node in range(1, nodes + 1)}

    @property
    def processes(self) -> list[LocalProcess]:
        """The nodes' processes, first node first."""
        return list(self._nodes.values())

    def launch(self) -> Self:
        """Starts the nodes without waiting for them."""
        for process in self._nodes.values():
            process.start()
        return self

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Returns when all nodes have registered; raises ServerExited or ServerNotReady."""
        for port, process in zip(self.ports, self._nodes.values(), strict=True):
            process.wait_ready(lambda port=port: listening(port), timeout_s=timeout_s)  # type: ignore[misc]
        admin = admin_client(self.bootstrap)

        def all_registered() -> bool:
            try:
                return len(admin.list_topics(timeout=2).brokers) == len(self._nodes)
            except KafkaException as error:
                raise OSError(str(error)) from error

        self._nodes[1].wait_ready(all_registered, timeout_s=timeout_s)
        return self

    def start(self) -> Self:
        """Starts all nodes and waits; a failed start leaves no process."""
        try:
            return self.launch().wait_ready()
        except BaseException:
            self.stop()
            raise

    def ensure_topics(self, table: Sequence[Topic]) -> None:
        """Creates the missing topics and waits for their leaders; raises TopicMismatch."""
        create_topics(self.bootstrap, table, replication=self.replication)

    def kill(self, node: int = 1) -> None:
        """Kills a node at once (SIGKILL)."""
        self._nodes[node].kill()

    def restart(self, node: int = 1) -> None:
        """Starts a node that was killed or stopped, on its old data, and waits for it."""
        self._nodes[node].start()
        self.wait_ready()

    def stop(self, *, keep_data: bool = True) -> None:
        """Stops all nodes; with `keep_data=False` they are killed (faster) and their data removed.

        The first cluster ever stopped leaves a class archive in the cache: later starts are faster.
        """
        training = not self._archive.exists()  # written by the JVM as it leaves
        stop_all(self._nodes.values(), grace_s=20.0 if keep_data or training else 0.0)
        if self._new_archive.exists():
            self._keep_archive()
        if not keep_data:  # the logs stay
            for node in self._nodes:
                shutil.rmtree(self.folder / str(node) / "data", ignore_errors=True)

    def close(self) -> None:
        """Stops all nodes and keeps the data."""
        self.stop()

    def __enter__(self) -> Self:
        """Starts the cluster."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stops the cluster and removes its data."""
        self.stop(keep_data=False)

    def _keep_archive(self) -> None:
        # Beside its place first: another cluster must never map half an archive.
        beside = self._archive.with_suffix(f".{os.getpid()}")
        shutil.move(self._new_archive, beside)
        beside.replace(self._archive)

    @property
    def _new_archive(self) -> Path:
        return self.folder / "1" / "classes.jsa"

    def _write_nodes(
        self,
        controller_ports: Sequence[int],
        advertised_ports: Sequence[int],
        replication_ports: Sequence[int],
    ) -> None:
        cluster = _kafka_id()
        for node in range(1, len(self.ports) + 1):
            data = self.folder / str(node) / "data"
            data.mkdir(parents=True, exist_ok=True)
            properties = node_properties(
                node,
                ports=self.ports,
                controller_ports=controller_ports,
                data=data,
                advertised_ports=advertised_ports,
                replication_ports=replication_ports,
            )
            _write(self.folder / str(node) / "server.properties", properties)
            meta = data / "meta.properties"
            if not meta.exists():
                # What `kafka-storage format` would write, without one more JVM start a node.
                ids = {"version": "1", "cluster.id": cluster, "node.id": str(node)}
                _write(meta, {**ids, "directory.id": _kafka_id()})

    def _process(self, node: int) -> LocalProcess:
        home = self.folder / str(node)
        jvm = [str(self._java.program), *JVM_FLAGS, *self._archive_flags(node)]
        broker = ["-cp", self._class_path, "kafka.Kafka", str(home / "server.properties")]
        name = "kafka" if len(self.ports) == 1 else f"kafka-{node}"
        return LocalProcess(name, [*jvm, *broker], log=home / "kafka.log", folder=home)

    def _archive_flags(self, node: int) -> list[str]:
        # JDK 25 calls it an ahead-of-time cache; before, it is a dynamic class archive.
        use, dump = (
            ("AOTCache", "AOTCacheOutput")
            if self._java.major >= 25
            else ("SharedArchiveFile", "ArchiveClassesAtExit")
        )
        if self._archive.exists():
            return [f"-XX:{use}={self._archive}"]
        return [f"-XX:{dump}={self._new_archive}"] if node == 1 else []


def class_archive(java: Java) -> Path:
    """Returns where Kafka's parsed classes are kept: beside the very jars, for this very Java."""
    return jars_folder() / f"classes-java-{java.version}.jsa"


def _write(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
