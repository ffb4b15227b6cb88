"""The examples of docs/producers.md, run as they stand against a real broker and a real edge.

A runtime that is not here skips its example with one line; what is not run is not proven.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Message

from schemas import topics
from schemas.actions import ActionRecord
from schemas.codec import RECORDS, Decoder
from schemas.topics import topic_table
from streams.local.kafka import LocalKafka
from streams.local.kafka_jars import find_java, jars_folder
from streams.local.ports import free_ports
from streams.local.redis_server import LocalRedis
from streams.partitioner import partition_of
from tests.agents.near_line import (
    PARTITIONS,
    Logs,
    WorkerProcess,
    eventually,
    worker_environment,
)

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "producers.md").read_text()
EXAMPLE = re.compile(r"<!-- example: (?P<name>\S+) -->\n```(?P<kind>\w+)\n(?P<code>.*?)```", re.S)
EXAMPLES = {match["name"]: match["code"] for match in EXAMPLE.finditer(DOCUMENT)}
USER = b"shopper-42"
HEADERS = {  # which `ce_` headers an example writes itself
    "curl": {"ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time"},
    "python": {"ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time"},
    "kcat": {"ce_specversion", "ce_id", "ce_type", "ce_source"},
    "java": {"ce_id"},
    "node": {"ce_id"},
    "confluent-kafka": set[str](),
}


@dataclass
class World:
    """A broker, an edge, and the topic's ends before an example ran."""

    environment: dict[str, str]
    logs: Logs

    def run(self, command: list[str], folder: Path) -> str:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def published(self, before: list[int]) -> list[tuple[int, Message]]:
        return [
            (partition, message)
            for partition, messages in enumerate(self.logs.read(topics.ACTIONS))
            for message in messages[before[partition] :]
        ]


@pytest.fixture(scope="module")
def world(
    kafka: LocalKafka, redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("producers")
    kafka.ensure_topics(topic_table(PARTITIONS))
    (port,) = free_ports(1)
    edge = WorkerProcess(
        "edge",
        worker_environment(
            kafka.bootstrap,
            redis_server.url,
            folder,
            OXYGENREC_HTTP__PORT=str(port),
            OXYGENREC_TRITON__GRPC_URL="127.0.0.1:1",  # taking actions in needs no generator
        ),
        folder,
    )
    logs = Logs(kafka.bootstrap)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _answers(url), 40, "the edge answers")
        yield World({"BOOTSTRAP": kafka.bootstrap, "EDGE": url}, logs)
    finally:
        edge.stop()
        logs.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def command_of(name: str, folder: Path) -> list[str]:
    """Writes an example into a folder; returns how it is run, or skips where it cannot be."""
    if name in {"python", "confluent-kafka"}:
        (folder / "publish.py").write_text(EXAMPLES[name])
        return [sys.executable, "publish.py"]
    if name == "java":
        java = find_java()
        modules = subprocess.run(
            [java.program, "--list-modules"], capture_output=True, text=True, check=True
        )
        if "jdk.compiler" not in modules.stdout:
            pytest.skip(f"Java {java.version} here runs no source files: a JDK does")
        (folder / "PublishAction.java").write_text(EXAMPLES[name])
        return [str(java.program), "-cp", f"{jars_folder()}/*", "PublishAction.java"]
    if name == "node":
        if shutil.which("node") is None:
            pytest.skip("no node on the PATH")
        found = subprocess.run(
            ["node", "-e", "require.resolve('kafkajs')"],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        if found.returncode:
            pytest.skip("node finds no kafkajs: `npm install kafkajs`, NODE_PATH=.../node_modules")
        (folder / "publish.js").write_text(EXAMPLES[name])
        return ["node", "publish.js"]
    tool = name.split("-")[0]
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} on the PATH")
    (folder / "publish.sh").write_text(EXAMPLES[name])
    return ["bash", "-eu", "publish.sh"]


def test_every_language_has_an_example_and_each_sets_or_names_its_partitioner() -> None:
    assert set(EXAMPLES) == {*HEADERS, "curl-dry-run"}
    for name in ("kcat", "confluent-kafka"):
        assert "murmur2_random" in EXAMPLES[name]
    assert "Partitioners.DefaultPartitioner" in EXAMPLES["node"]


def test_the_user_of_the_examples_tells_murmur2_from_librdkafkas_default() -> None:
    for partitions in (PARTITIONS, 12):
        assert zlib.crc32(USER) % partitions != partition_of(USER, partitions)


@pytest.mark.integration
@pytest.mark.parametrize("name", HEADERS)
def test_an_example_publishes_one_action_to_the_partition_the_python_client_computes(
    world: World, name: str, tmp_path: Path
) -> None:
    command = command_of(name, tmp_path)
    before = world.logs.ends(topics.ACTIONS)
    world.run(command, tmp_path)
    [(partition, message)] = world.published(before)
    decoder: Decoder[ActionRecord] = Decoder(RECORDS[topics.ACTIONS])
    action = decoder.decode(message.value() or b"")
    assert message.key() == action.user_id.encode() == USER
    assert partition == partition_of(USER, PARTITIONS)
    headers = dict(message.headers() or ())
    assert {header for header in headers if header.startswith("ce_")} == HEADERS[name]
    assert headers.get("ce_id", action.event_id.encode()) == action.event_id.encode()


@pytest.mark.integration
def test_the_dry_run_example_is_refused_with_its_reason_and_publishes_nothing(
    world: World, tmp_path: Path
) -> None:
    before = world.logs.ends(topics.ACTIONS)
    answer = json.loads(world.run(command_of("curl-dry-run", tmp_path), tmp_path))
    assert (answer["dry_run"], answer["rejected"]) == (True, 1)
    assert answer["results"][0]["rejection"]["reason"] == "unknown_action"
    assert world.published(before) == []
