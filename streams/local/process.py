"""One child process with a log file, that is waited for and never outlives its supervisor."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from streams.local import guardian
from streams.local.errors import ServerExited, ServerNotReady

POLL_S = 0.05  # a server is ready in 0.1-16 s: finer polling only costs a core
TAIL_LINES = 20
_TAIL_BYTES = 16_384
# The shell becomes the program only once the guardian knows its process id: a supervisor that is
# killed in between closes the pipe, and the program never starts.
_HELD_WITH_INPUT = 'read -r go || exit 1; exec "$@"'
_HELD = f"{_HELD_WITH_INPUT} </dev/null"


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Returns the last lines of a log file; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


class _Guard:
    """The supervisor's end of the guardian's pipe; the guardian starts with the first child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: IO[str] | None = None
        self._owner_pid = 0

    def register(self, pgid: int, mark: str) -> None:
        self._write(f"+ {pgid} {mark}\n")

    def release(self, pgid: int) -> None:
        self._write(f"- {pgid} released\n")

    def _write(self, line: str) -> None:
        with self._lock:
            if self._pipe is None or self._owner_pid != os.getpid():  # a fork is its own supervisor
                self._start()
            if self._pipe is not None:
                self._pipe.write(line)
                self._pipe.flush()

    def _start(self) -> None:
        # -I -S: no site packages, 10 MB; it must start even in a broken environment.
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            text=True,
        )
        self._pipe, self._owner_pid = self._guardian.stdin, os.getpid()
        atexit.register(self._close)

    def _close(self) -> None:
        """Lets the guardian end with us; it kills what is still registered."""
        with self._lock:
            if self._pipe is not None and self._owner_pid == os.getpid():
                self._pipe.close()
                self._guardian.wait()
                self._pipe = None


_guard = _Guard()


class LocalProcess:
    """Starts one program in its own session, with its output in a log file.

    The own session keeps the terminal's Ctrl-C from it: the supervisor decides when it stops.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        with_input: bool = False,
    ) -> None:
        self.name = name
        self.argv = [str(argument) for argument in argv]
        self.log = log
        self.mark = ""
        self.started_ms = 0
        self._environment = {**os.environ, **(environment or {})}
        self._folder = folder
        self._with_input = with_input
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, which is the process group's id too; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs or before it started."""
        return self._process.poll() if self._process else None

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe to its standard input; only with `with_input=True`, after `start`."""
        if self._process is None or self._process.stdin is None:
            raise ValueError(f"{self.name} has no input pipe: start it with with_input=True")
        return self._process.stdin

    def start(self) -> LocalProcess:
        """Starts the program; its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        held = _HELD_WITH_INPUT if self._with_input else _HELD
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", held, "sh", *self.argv],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
        self.started_ms = int(time.time() * 1000)
        self.mark = guardian.start_mark(self.pid) or "gone"
        _guard.register(self.pid, self.mark)
        self._let_go(self._process)
        return self

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None:
            return
        try:
            process.stdin.write(b"go\n")
            process.stdin.flush()
            if not self._with_input:
                process.stdin.close()
        except BrokenPipeError:  # it was killed meanwhile: `exit_code` tells
            return

    def wait_ready(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Returns once `ready()` is true; an OSError of it counts as not yet.

        Raises ServerExited when the process ends first, ServerNotReady at the deadline.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if (code := self.exit_code) is not None:
                raise ServerExited(
                    name=self.name, exit_code=code, log=self.log, tail=tail(self.log)
                )
            try:
                if ready():
                    return
            except OSError:
                pass  # refused or reset: it does not listen yet
            if time.monotonic() > deadline:
                raise ServerNotReady(
                    name=self.name, timeout_s=timeout_s, log=self.log, tail=tail(self.log)
                )
            time.sleep(POLL_S)

    def wait(self, timeout_s: float) -> int:
        """Returns the exit code of a program that ends by itself; raises ServerNotReady if not."""
        deadline = time.monotonic() + timeout_s
        while (code := self.exit_code) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise ServerNotReady(
                    name=self.name, timeout_s=timeout_s, log=self.log, tail=tail(self.log)
                )
            time.sleep(POLL_S)
        self.reap()
        return code

    def stop(self, grace_s: float = 10.0) -> None:
        """Terminates it, then kills whatever is left of its group; nothing if it never ran."""
        stop_all([self], grace_s)

    def kill(self) -> None:
        """Kills it and its children at once (SIGKILL), as a crash would."""
        stop_all([self], grace_s=0.0)

    def signal(self, signum: int) -> None:
        """Sends a signal to the process alone, not to its children."""
        if self._process is not None:
            self._process.send_signal(signum)

    def reap(self) -> None:
        """Kills the rest of the group, collects the exit status and tells the guardian."""
        if self._process is None:
            return
        guardian.signal_group(self.pid, self.mark, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        _guard.release(self.pid)


def stop_all(processes: Iterable[LocalProcess], grace_s: float = 10.0) -> None:
    """Stops all processes at once under one shared deadline; what is left of them is killed."""
    started = [process for process in processes if process.pid]
    if grace_s > 0:
        for process in started:
            process.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(process.alive for process in started):
        time.sleep(0.02)
    for process in started:
        process.reap()
