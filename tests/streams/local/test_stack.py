"""The stack: supervision of workers, fall-backs that say so, and real servers together."""

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from schemas.topics import topic_table
from streams.local import servers
from streams.local.broker import admin_client, partition_counts
from streams.local.control import status
from streams.local.errors import (
    AlreadyRunning,
    JavaMissing,
    NotRunning,
    PortInUse,
    ServerExited,
    StartCancelled,
    TritonUnavailable,
    UnknownProcess,
)
from streams.local.guardian import start_mark
from streams.local.mock_kafka import MockKafka
from streams.local.servers import open_broker
from streams.local.spec import StackSpec
from streams.local.stack import LocalStack
from streams.local.state import read_state
from streams.local.workers import WorkerSpec

SLEEP = WorkerSpec(argv=(sys.executable, "-c", "import time; time.sleep(60)"))


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def spec(home: Path, lines: list[str]) -> StackSpec:
    return StackSpec(home=home, topics=topic_table(4), report=lines.append)


def test_a_killed_worker_is_started_again_and_the_state_file_follows(tmp_path: Path) -> None:
    lines: list[str] = []
    with LocalStack(spec(tmp_path, lines)) as stack:
        stack.start_workers({"router": SLEEP})
        stack.watch()
        first = stack.process("router").pid
        stack.process("router").kill()
        assert within(5, lambda: read_state(tmp_path).processes[0].pid != first)
        again = read_state(tmp_path).processes[0]
        assert (again.restarts, again.runs()) == (1, True)
    assert len(lines) == 1
    assert "router ended with exit code -9 and starts again in 0.5 s; its log is" in lines[0]
    assert start_mark(again.pid) is None


def test_prometheus_finds_each_worker_in_one_file_while_the_stack_runs(tmp_path: Path) -> None:
    port = (
        "import os, time; print(os.environ['OXYGENREC_METRICS__PORT'], flush=True); time.sleep(60)"
    )
    speaking = WorkerSpec(argv=(sys.executable, "-c", port))
    edge = WorkerSpec(argv=SLEEP.argv, url="{http_url}")
    targets = tmp_path / "prometheus.json"
    with LocalStack(spec(tmp_path, [])) as stack:
        stack.start_workers({"router": speaking, "edge": edge})
        log = tmp_path / "logs" / "router.log"
        assert within(5, lambda: log.read_text().endswith("\n"))
        found = {group["labels"]["process"]: group["targets"] for group in json_of(targets)}
        assert found == {
            "router": [f"127.0.0.1:{log.read_text().strip()}"],
            "edge": [f"127.0.0.1:{stack.addresses.http_port}"],
        }
    assert not targets.exists()


def json_of(path: Path) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = json.loads(path.read_text())
    return groups


def test_leaving_the_context_stops_all_and_removes_the_state_but_keeps_logs(
    tmp_path: Path,
) -> None:
    noisy = WorkerSpec(argv=(sys.executable, "-c", "print('hello')\nwhile True: pass"))
    with LocalStack(spec(tmp_path, [])) as stack:
        stack.start_workers({"noisy": noisy, "sleep": SLEEP})
        pids = [row.pid for row in status(tmp_path) if row.kind == "worker"]
        log = tmp_path / "logs" / "noisy.log"
        assert within(5, lambda: log.read_text() == "hello\n")
    assert [pid for pid in pids if start_mark(pid)] == []
    assert log.exists()
    with pytest.raises(NotRunning):
        read_state(tmp_path)


def test_a_worker_that_cannot_start_is_an_error_with_its_log_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    broken = WorkerSpec(
        argv=(sys.executable, "-c", "raise SystemExit('no topic actions')"), ready=lambda: False
    )
    stack = LocalStack(spec(tmp_path, []))
    with stack, pytest.raises(ServerExited, match="no topic actions"):
        stack.start_workers({"sleep": SLEEP, "broken": broken})
    assert not stack.workers["sleep"].process.alive


def test_two_stacks_do_not_share_a_folder(tmp_path: Path) -> None:
    with LocalStack(spec(tmp_path, [])), pytest.raises(AlreadyRunning):
        LocalStack(spec(tmp_path, []))
    LocalStack(spec(tmp_path, [])).stop()


def test_nothing_starts_after_the_stop(tmp_path: Path) -> None:
    stack = LocalStack(spec(tmp_path, []))
    stack.stop()
    with pytest.raises(StartCancelled):
        stack.start_workers({"sleep": SLEEP})
    assert not (tmp_path / "state.json").exists()


def test_a_taken_http_port_is_named_and_the_folder_is_free_again(tmp_path: Path) -> None:
    with LocalStack(spec(tmp_path / "other", [])) as other:
        port = other.addresses.http_port
        taken = StackSpec(home=tmp_path, topics=(), http_port=port)
        with (
            socket.create_server(("127.0.0.1", port)),
            pytest.raises(PortInUse, match=f"port {port} for the HTTP edge"),
        ):
            LocalStack(taken)
    LocalStack(taken).stop()


def test_an_unknown_process_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with LocalStack(spec(tmp_path, [])) as stack:
        stack.start_workers({"router": SLEEP})
        with pytest.raises(UnknownProcess, match="choose one of router"):
            stack.process("rooter")


def test_without_java_the_embedded_broker_takes_over_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_java(*arguments: object, **options: object) -> object:
        raise JavaMissing(found="none", wanted_major=17)

    monkeypatch.setattr(servers, "LocalKafka", no_java)
    lines: list[str] = []
    broker = open_broker("auto", tmp_path, nodes=1, port=None, report=lines.append)
    assert isinstance(broker, MockKafka)
    assert "NO DURABILITY" in lines[-1]
    assert "make setup" in lines[-1]
    with pytest.raises(JavaMissing):
        open_broker("kafka", tmp_path, nodes=1, port=None, report=lines.append)


def test_without_triton_the_generator_runs_in_process_and_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "triton_unavailable", lambda: "no libpython")
    lines: list[str] = []
    with LocalStack(spec(tmp_path, lines)) as stack:
        stack.start_triton(tmp_path)
        assert (stack.triton, stack.addresses.triton_grpc_url) == (None, "")
    assert lines == ["the generator runs in process, without Triton: no libpython"]
    demanded = StackSpec(home=tmp_path, topics=(), triton="server")
    for _ in range(2):  # the folder is free again after the refusal
        with pytest.raises(TritonUnavailable, match="no libpython"):
            LocalStack(demanded)


def test_workers_that_start_before_triton_are_told_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "triton_unavailable", lambda: None)
    with LocalStack(spec(tmp_path, [])) as stack:
        promised = stack.addresses.triton_grpc_url
        assert promised
        assert stack.addresses.environment(tmp_path)["OXYGENREC_TRITON__GRPC_URL"] == promised


def test_a_repository_without_a_model_yet_means_no_triton(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "triton_unavailable", lambda: None)
    lines: list[str] = []
    with LocalStack(spec(tmp_path, lines)) as stack:
        stack.start_triton(tmp_path)
        assert (stack.triton, stack.addresses.triton_grpc_url) == (None, "")
    assert "has no model generator yet" in lines[0]


@pytest.mark.integration
def test_real_servers_and_a_worker_start_together_and_leave_together(tmp_path: Path) -> None:
    lines: list[str] = []
    real = StackSpec(home=tmp_path, topics=topic_table(4), broker="kafka", report=lines.append)
    with LocalStack(real) as stack:
        stack.start()
        bootstrap = stack.addresses.kafka_bootstrap
        found = partition_counts(admin_client(bootstrap), bootstrap)
        assert found == {topic.name: topic.partitions for topic in topic_table(4)}
        with redis.Redis.from_url(stack.addresses.redis_url) as client:
            assert client.ping()
        stack.start_workers({"router": SLEEP})
        stack.watch()
        rows = {row.name: row for row in status(tmp_path)}
        assert set(rows) == {"supervisor", "kafka", "redis", "router"}
        assert {row.state for row in rows.values()} == {"running"}
        assert rows["kafka"].url == bootstrap
        stack.process("redis").kill()
        assert within(5, lambda: any("redis ended with exit code -9" in line for line in lines))
    left = [row.pid for row in rows.values() if row.name != "supervisor" and start_mark(row.pid)]
    assert left == []
    assert (tmp_path / "servers" / "kafka" / "1" / "kafka.log").exists()
