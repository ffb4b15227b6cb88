"""What a supervisor leaves in its folder for `status`, `logs` and `down`: one JSON file."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec

from streams.local.errors import AlreadyRunning, NotRunning
from streams.local.guardian import start_mark
from streams.local.process import LocalProcess

STATE_FILE = "state.json"


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One process that a stack started. `mark` tells it from a later one with the same id."""

    name: str
    kind: Literal["supervisor", "server", "worker"]
    pid: int
    mark: str
    started_ms: int
    log: str = ""
    url: str = ""
    restarts: int = 0

    def runs(self) -> bool:
        """Whether this very process still runs."""
        return start_mark(self.pid) == self.mark


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where the servers of a stack are; `triton_grpc_url` empty: the generator runs in process."""

    kafka_bootstrap: str = ""
    kafka_partitions: int = 12
    kafka_replication: int = 1
    kafka_check_crcs: bool = True
    redis_url: str = ""
    triton_grpc_url: str = ""
    triton_http_url: str = ""
    triton_metrics_url: str = ""
    http_port: int = 0

    @property
    def http_url(self) -> str:
        """The address of the HTTP edge."""
        return f"http://127.0.0.1:{self.http_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Returns the settings of a worker of this stack, as environment variables."""
        return {
            "OXYGENREC_HOME": str(home),
            "OXYGENREC_KAFKA__BOOTSTRAP": self.kafka_bootstrap,
            "OXYGENREC_KAFKA__PARTITIONS": str(self.kafka_partitions),
            "OXYGENREC_KAFKA__REPLICATION": str(self.kafka_replication),
            "OXYGENREC_KAFKA__CHECK_CRCS": str(self.kafka_check_crcs).lower(),
            "OXYGENREC_REDIS__URL": self.redis_url,
            "OXYGENREC_TRITON__GRPC_URL": self.triton_grpc_url,
            "OXYGENREC_HTTP__PORT": str(self.http_port),
        }


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a running stack."""

    supervisor: ProcessRecord
    broker: Literal["kafka", "mock"]
    triton: Literal["server", "in-process"]
    addresses: Addresses
    processes: list[ProcessRecord]


def record(
    process: LocalProcess, kind: Literal["server", "worker"], *, url: str = "", restarts: int = 0
) -> ProcessRecord:
    """Returns what is written down about a process of the stack."""
    return ProcessRecord(
        name=process.name,
        kind=kind,
        pid=process.pid,
        mark=process.mark,
        started_ms=process.started_ms,
        log=str(process.log),
        url=url,
        restarts=restarts,
    )


def supervisor_record() -> ProcessRecord:
    """Returns what is written down about this process, the supervisor."""
    pid = os.getpid()
    return ProcessRecord(
        name="supervisor",
        kind="supervisor",
        pid=pid,
        mark=start_mark(pid) or "gone",
        started_ms=int(time.time() * 1000),
    )


def write_state(home: Path, state: StackState) -> None:
    """Replaces the state file atomically; its mode is 0600: a Redis URL may have a password."""
    content = msgspec.json.format(msgspec.json.encode(state), indent=1)
    descriptor, temporary = tempfile.mkstemp(dir=home, prefix=STATE_FILE)  # mode 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(temporary).replace(home / STATE_FILE)


def read_state(home: Path) -> StackState:
    """Returns the state of the stack of this folder; raises NotRunning when there is none."""
    try:
        return msgspec.json.decode((home / STATE_FILE).read_bytes(), type=StackState)
    except FileNotFoundError as error:
        raise NotRunning(home=home) from error


def remove_state(home: Path) -> None:
    """Removes the state file, if there is one."""
    (home / STATE_FILE).unlink(missing_ok=True)


class HomeLock:
    """Holds a folder for one supervisor; the kernel releases it when the supervisor dies."""

    def __init__(self, home: Path) -> None:
        """Takes the folder, which it creates; raises AlreadyRunning when another one holds it."""
        home.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(home / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            try:
                pid = read_state(home).supervisor.pid
            except NotRunning:  # it has only just begun
                pid = 0
            raise AlreadyRunning(home=home, pid=pid) from error

    def release(self) -> None:
        """Gives the folder back; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
