"""`up` in a process of its own: every way to end it leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.local.control import down
from streams.local.errors import NotRunning
from streams.local.guardian import start_mark
from streams.local.kafka_jars import find_java, kafka_jars
from streams.local.state import ProcessRecord, StackState, read_state

# argv: folder, broker, the worker's program. Prints "ready" once everything is.
UP = """
import sys
from pathlib import Path
from schemas.errors import OxygenRecError
from schemas.topics import topic_table
from streams.local.foreground import up
from streams.local.spec import StackSpec
from streams.local.workers import WorkerSpec

home, broker, program = sys.argv[1:]
worker = WorkerSpec(argv=(sys.executable, "-c", program), ready=lambda: "exit" not in program)
spec = StackSpec(
    home=Path(home), topics=topic_table(4), broker=broker, workers={"worker": worker},
)
try:
    up(spec, ready=lambda stack: print("ready", flush=True))
except OxygenRecError as error:
    sys.exit(str(error))
"""
SLEEP = "import time; time.sleep(60)"


def start(home: Path, program: str = SLEEP, broker: str = "mock") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", UP, str(home), broker, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], StackState]]:
    kafka_jars(find_java())
    process = start(tmp_path, broker="kafka")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process, read_state(tmp_path)
    process.kill()
    process.communicate()


def left(records: list[ProcessRecord], within_s: float) -> list[str]:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and any(record.runs() for record in records):
        time.sleep(0.05)
    return [record.name for record in records if record.runs()]


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_ends_everything_and_the_exit_code_is_0(
    number: signal.Signals, running: tuple[subprocess.Popen[str], StackState], tmp_path: Path
) -> None:
    process, state = running
    assert {record.name for record in state.processes} == {"kafka", "redis", "worker"}
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert left(state.processes, within_s=0) == []
    with pytest.raises(NotRunning):
        read_state(tmp_path)


@pytest.mark.integration
def test_kill_9_of_the_supervisor_ends_everything(
    running: tuple[subprocess.Popen[str], StackState],
) -> None:
    process, state = running
    process.kill()
    assert left(state.processes, within_s=15) == []


@pytest.mark.integration
def test_down_from_another_process_ends_everything(
    running: tuple[subprocess.Popen[str], StackState], tmp_path: Path
) -> None:
    process, state = running
    assert sorted(down(tmp_path)) == ["kafka", "redis", "worker"]
    assert process.wait(10) == 0
    assert left(state.processes, within_s=0) == []


@pytest.mark.integration
def test_down_finishes_what_a_killed_supervisor_began(
    running: tuple[subprocess.Popen[str], StackState], tmp_path: Path
) -> None:
    process, state = running
    process.kill()
    process.wait()
    down(tmp_path)
    assert left(state.processes, within_s=0) == []
    assert not (tmp_path / "state.json").exists()


@pytest.mark.integration
def test_a_failed_start_stops_what_had_started_and_names_the_log(tmp_path: Path) -> None:
    process = start(tmp_path, program="import sys; sys.exit('worker says no')")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "worker ended with exit code 1 before it was ready" in errors
    assert "worker says no" in errors
    assert not (tmp_path / "state.json").exists()
    assert "Traceback" not in errors


@pytest.mark.integration
def test_a_signal_in_the_middle_of_the_start_stops_it(tmp_path: Path) -> None:
    process = start(
        tmp_path, program="import time; time.sleep(60)  # exit"
    )  # its check is never true
    deadline = time.monotonic() + 30
    while not (tmp_path / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    state = read_state(tmp_path)
    assert state.processes
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert [record for record in state.processes if start_mark(record.pid)] == []
