"""Chooses which server runs here, and says so where it is not the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from streams.local.errors import JavaMissing, KafkaJarsUnavailable, TritonUnavailable
from streams.local.kafka import LocalKafka
from streams.local.kafka_jars import DOWNLOAD, jars_folder
from streams.local.mock_kafka import MockKafka
from streams.local.triton import LocalTriton, TritonPorts, triton_unavailable

BrokerChoice = Literal["auto", "kafka", "mock"]
TritonChoice = Literal["auto", "server", "in-process"]
Report = Callable[[str], None]


def open_broker(
    choice: BrokerChoice, folder: Path, *, nodes: int, port: int | None, report: Report
) -> LocalKafka | MockKafka:
    """Returns a real Kafka; with `auto` the embedded broker where Java or the jars are missing.

    Raises JavaMissing or KafkaJarsUnavailable with `kafka`, PortInUse.
    """
    if choice == "mock":
        return MockKafka(folder)
    if not jars_folder().is_dir():
        report(f"downloading {DOWNLOAD}, into {jars_folder()}")
    try:
        return LocalKafka(folder, nodes=nodes, port=port)
    except (JavaMissing, KafkaJarsUnavailable) as error:
        if choice == "kafka":
            raise
        report(f"embedded broker instead of Kafka, NO DURABILITY: {error}")
        return MockKafka(folder)


def choose_triton(choice: TritonChoice, *, report: Report) -> TritonPorts | None:
    """Returns where Triton will listen, None where the generator runs in process.

    Raises TritonUnavailable with `server`.
    """
    if choice == "in-process":
        return None
    if reason := triton_unavailable():
        if choice == "server":
            raise TritonUnavailable(reason=reason)
        report(f"the generator runs in process, without Triton: {reason}")
        return None
    return TritonPorts.free()


def open_triton(
    ports: TritonPorts,
    repository: Path,
    folder: Path,
    *,
    models: Sequence[str],
    environment: Mapping[str, str],
    report: Report,
) -> LocalTriton | None:
    """Returns a server for the models of the repository, None where they are not there yet."""
    if missing := [name for name in models if not (repository / name / "config.pbtxt").is_file()]:
        report(f"no Triton: {repository} has no model {', '.join(missing)} yet")
        return None
    return LocalTriton(repository, folder, load=models, ports=ports, environment=environment)
