"""Looking at a stack and stopping it from another process, by process ids that are checked."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

from streams.local.control import StatusRow, down, logs, status
from streams.local.errors import NotRunning, UnknownProcess
from streams.local.guardian import start_mark
from streams.local.process import LocalProcess
from streams.local.state import (
    Addresses,
    ProcessRecord,
    StackState,
    record,
    remove_state,
    write_state,
)

DEAD = ProcessRecord(name="supervisor", kind="supervisor", pid=1, mark="0@dead", started_ms=0)


def write(home: Path, *processes: ProcessRecord) -> None:
    write_state(
        home,
        StackState(
            supervisor=DEAD,
            broker="kafka",
            triton="in-process",
            addresses=Addresses(),
            processes=list(processes),
        ),
    )


def test_down_ends_what_a_dead_supervisor_left_and_spares_recycled_ids(tmp_path: Path) -> None:
    ours = LocalProcess("redis", ["sleep", "60"], log=tmp_path / "log").start()
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        recycled = ProcessRecord(
            name="kafka", kind="server", pid=stranger.pid, mark="1@before", started_ms=0
        )
        write(tmp_path, record(ours, "server"), recycled)
        assert down(tmp_path) == ["redis"]
        assert start_mark(ours.pid) is None
        assert stranger.poll() is None
        with pytest.raises(NotRunning):
            down(tmp_path)
    finally:
        stranger.kill()
        stranger.wait()
        ours.kill()


def test_status_has_a_row_a_process_with_what_it_uses(tmp_path: Path) -> None:
    ours = LocalProcess("router", ["sleep", "60"], log=tmp_path / "log").start()
    write(tmp_path, record(ours, "worker", url="http://x", restarts=2))
    rows: list[StatusRow] = []

    def has_memory() -> bool:  # one reading: the kernel's count of a new process is not monotonic
        rows[:] = status(tmp_path)
        return rows[1].memory_bytes > 100_000

    ours.wait_ready(has_memory, timeout_s=10)
    supervisor, running = rows
    assert (supervisor.name, supervisor.state, supervisor.memory_bytes) == ("supervisor", "dead", 0)
    assert (running.state, running.restarts, running.url) == ("running", 2, "http://x")
    assert 0 <= running.uptime_s < 60
    ours.kill()
    assert status(tmp_path)[1].state == "dead"


def test_logs_shows_the_last_lines_of_one_process(tmp_path: Path) -> None:
    ours = LocalProcess("router", ["sh", "-c", "echo one; echo two"], log=tmp_path / "log").start()
    ours.wait(10)
    write(tmp_path, record(ours, "worker"))
    assert list(logs(tmp_path, "router", lines=1)) == ["two"]
    with pytest.raises(UnknownProcess, match=r"no process 'route' .* choose one of router"):
        list(logs(tmp_path, "route"))


def test_following_a_log_yields_whole_new_lines_until_the_stack_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    ours = LocalProcess("router", ["sleep", "60"], log=log)
    write(tmp_path, record(ours, "worker"))
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(logs(tmp_path, "router", follow=True)))
    reader.start()
    while not seen and reader.is_alive():
        time.sleep(0.01)
    with log.open("a") as file:
        file.write("new ")
        file.flush()
        time.sleep(0.3)
        file.write("line\n")
    time.sleep(0.5)
    remove_state(tmp_path)
    reader.join(5)
    assert seen == ["old", "new line"]
