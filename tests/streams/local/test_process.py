"""One process: waited for, stopped with its children, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.local.errors import ServerExited, ServerNotReady
from streams.local.guardian import start_mark
from streams.local.process import LocalProcess, stop_all, tail

# A parent with a grandchild: prints both ids, then waits.
FAMILY = "sleep 60 & echo $! ; wait"


def gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while start_mark(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def first_line(log: Path) -> str:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if log.exists() and log.read_text().endswith("\n"):
            return log.read_text().splitlines()[0]
        time.sleep(0.02)
    raise TimeoutError(log)


def test_a_process_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = LocalProcess("broken", ["sh", "-c", "echo no such model >&2; exit 3"], log=log)
    process.start()
    with pytest.raises(ServerExited) as raised:
        process.wait_ready(lambda: False, timeout_s=5)
    process.stop()
    assert raised.value.exit_code == 3
    assert str(log) in str(raised.value)
    assert "no such model" in str(raised.value)


def test_waiting_ends_at_the_deadline_and_names_the_log(tmp_path: Path) -> None:
    process = LocalProcess("slow", ["sleep", "60"], log=tmp_path / "log").start()
    with pytest.raises(ServerNotReady) as raised:
        process.wait_ready(lambda: False, timeout_s=0.1)
    process.kill()
    assert "slow was not ready after 0.1 s" in str(raised.value)


def test_a_refused_connection_counts_as_not_ready_yet(tmp_path: Path) -> None:
    attempts = []

    def ready() -> bool:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionRefusedError
        return True

    process = LocalProcess("late", ["sleep", "60"], log=tmp_path / "log").start()
    process.wait_ready(ready, timeout_s=5)
    process.kill()
    assert len(attempts) == 3


@pytest.mark.parametrize("end", [LocalProcess.stop, LocalProcess.kill])
def test_children_end_with_the_process(end: object, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = LocalProcess("family", ["sh", "-c", FAMILY], log=log).start()
    grandchild = int(first_line(log))
    assert callable(end)
    end(process)
    assert not process.alive
    assert gone(grandchild)


def test_stopping_many_shares_one_deadline(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; while :; do sleep 0.05; done"
    processes = [
        LocalProcess(f"p{i}", ["sh", "-c", stubborn], log=tmp_path / "log").start()
        for i in range(4)
    ]
    time.sleep(0.1)  # until the traps are set
    start = time.monotonic()
    stop_all(processes, grace_s=0.3)
    assert time.monotonic() - start < 1.0
    assert [process.exit_code for process in processes] == [-signal.SIGKILL] * 4


def test_stopping_twice_or_before_the_start_does_nothing(tmp_path: Path) -> None:
    process = LocalProcess("once", ["sleep", "60"], log=tmp_path / "log")
    process.stop()
    process.start().stop()
    process.stop()
    assert process.exit_code == -signal.SIGTERM


SUPERVISOR = """
import sys, threading
from pathlib import Path
from streams.local.process import LocalProcess

def start():
    LocalProcess("family", ["sh", "-c", {family!r}], log=Path(sys.argv[1])).start()

thread = threading.Thread(target=start)  # a thread that ends at once must not end its children
thread.start()
thread.join()
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_supervisor_leaves_no_child_and_no_grandchild(
    number: signal.Signals, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR.format(family=FAMILY), str(log)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        grandchild = int(first_line(log))
        child = int(Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[1])
        assert start_mark(child)
        assert os.getpgid(grandchild) == child
    finally:
        supervisor.send_signal(number)
        supervisor.communicate()
    assert gone(child)
    assert gone(grandchild)


def test_tail_returns_the_last_lines_and_nothing_of_a_missing_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_text("".join(f"line {i}\n" for i in range(10_000)))
    assert tail(log, lines=2) == "line 9998\nline 9999"
