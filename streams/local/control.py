"""Looks at a running stack and stops it, from another process: `status`, `logs`, `down`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streams.local import guardian
from streams.local.errors import UnknownProcess
from streams.local.state import STATE_FILE, ProcessRecord, read_state, remove_state

DOWN_TIMEOUT_S = 45.0  # workers 15 s, Triton 12 s, Kafka 20 s at worst; 4 s here


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """One process of a stack, as it is now."""

    name: str
    kind: Literal["supervisor", "server", "worker"]
    state: Literal["running", "dead"]
    pid: int
    uptime_s: float
    memory_bytes: int
    restarts: int
    url: str
    log: str


def status(home: Path) -> list[StatusRow]:
    """Returns one row a process, the supervisor first; raises NotRunning."""
    state = read_state(home)
    return [_row(record) for record in (state.supervisor, *state.processes)]


def logs(home: Path, name: str, *, follow: bool = False, lines: int = 50) -> Iterator[str]:
    """Yields the last lines of a process's log; with `follow`, then each new one until `down`.

    Raises NotRunning, UnknownProcess.
    """
    state = read_state(home)
    files = {record.name: Path(record.log) for record in state.processes if record.log}
    if name not in files:
        raise UnknownProcess(name=name, known=sorted(files))
    log = files[name]
    position, last = _whole_lines(log)
    yield from last[-lines:]
    while follow and (home / STATE_FILE).exists():
        with log.open("rb") as file:
            file.seek(position)
            for line in iter(file.readline, b""):
                if not line.endswith(b"\n"):  # still being written
                    break
                position += len(line)
                yield line.decode(errors="replace").rstrip("\n")
        time.sleep(0.2)


def _whole_lines(log: Path) -> tuple[int, list[str]]:
    """Returns where the last finished line ends, and the lines up to there."""
    content = log.read_bytes() if log.exists() else b""
    end = content.rfind(b"\n") + 1
    return end, content[:end].decode(errors="replace").splitlines()


def down(home: Path) -> list[str]:
    """Stops the stack of this folder and returns what was running; raises NotRunning.

    The supervisor is asked first; what is left after it is ended by process id, never by name, and
    only where the start time is that of the state file: a recycled id belongs to somebody else.
    """
    state = read_state(home)
    running = [record.name for record in state.processes if record.runs()]
    if state.supervisor.runs():
        os.kill(state.supervisor.pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        while state.supervisor.runs() and time.monotonic() < deadline:
            time.sleep(0.05)
    kill_recorded([state.supervisor, *state.processes])
    remove_state(home)
    return running


def kill_recorded(records: list[ProcessRecord]) -> None:
    """Ends the recorded processes that still run, their children too; others are not touched."""
    left = {record.pid: record.mark for record in records if record.runs()}
    own_session = {pid: mark for pid, mark in left.items() if os.getpgid(pid) == pid}
    guardian.kill_groups(own_session)
    for pid in left.keys() - own_session.keys():  # a supervisor inside its shell's group
        if guardian.start_mark(pid) == left[pid]:
            os.kill(pid, signal.SIGKILL)


def _row(record: ProcessRecord) -> StatusRow:
    alive = record.runs()
    return StatusRow(
        name=record.name,
        kind=record.kind,
        state="running" if alive else "dead",
        pid=record.pid,
        uptime_s=(time.time() - record.started_ms / 1000) if alive else 0.0,
        memory_bytes=_memory_bytes(record.pid) if alive else 0,
        restarts=record.restarts,
        url=record.url,
        log=record.log,
    )


def _memory_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
