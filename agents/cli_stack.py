"""`status`, `logs` and `down`: what the command line says about a stack of another process."""

import os
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import typer

from agents.exit_codes import ExitCode
from agents.settings import Settings
from streams.connections import KafkaConfig
from streams.local.control import StatusRow, down, logs, status
from streams.local.errors import NotRunning
from streams.local.state import read_state

READY_TIMEOUT_S = 2.0  # the edge asks Redis and Triton before it says ready


def stop_stack(settings: Settings) -> None:
    """Stops the stack of this folder and says what was running. Raises `NotRunning`."""
    stopped = down(Path(settings.paths.home))
    typer.echo(f"stopped {', '.join(stopped) or 'a supervisor without processes'}")


def show_status(settings: Settings, user: str | None) -> None:
    """Prints one line a process, readiness, and a line a partition of the near-line path.

    Exits FAILED when something is dead, not ready, or stands in a window's way. Without a stack of
    this folder it is the path alone, where the settings name a broker. Raises `NotRunning`,
    `BrokerSilent`, `TopicsDiffer`.
    """
    from agents.cli_windows import show_windows

    well = True
    try:
        well = _show_processes(Path(settings.paths.home))
    except NotRunning:
        if settings.kafka == KafkaConfig():
            raise
    if not show_windows(settings, user) or not well:
        raise typer.Exit(ExitCode.FAILED)


def _show_processes(home: Path) -> bool:
    """Returns whether all processes run and the edge is ready. Raises `NotRunning`."""
    rows = status(home)
    for row in rows:
        typer.echo(_line(row))
    state = read_state(home)
    why_not = not_ready(state.addresses.http_url)
    typer.echo(f"broker {state.broker}, triton {state.triton}, {state.addresses.http_url}")
    typer.echo("ready" if why_not is None else f"not ready: {why_not}")
    return why_not is None and all(row.state == "running" for row in rows)


def show_log(settings: Settings, name: str, *, follow: bool, lines: int) -> None:
    """Prints the end of a process's log. Raises `NotRunning`, `UnknownProcess`."""
    with suppress(KeyboardInterrupt, BrokenPipeError):
        for line in logs(Path(settings.paths.home), name, follow=follow, lines=lines):
            typer.echo(line)


def not_ready(http_url: str) -> str | None:
    """Returns why the edge at this address does not call itself ready, or None when it does."""
    try:
        with urllib.request.urlopen(f"{http_url}/readyz", timeout=READY_TIMEOUT_S):  # noqa: S310  http on loopback
            return None
    except urllib.error.HTTPError as error:
        with error:
            return error.read(500).decode(errors="replace") or str(error)
    except OSError as error:
        return str(error)


def _line(row: StatusRow) -> str:
    memory = f"{row.memory_bytes / 2**20:.0f} MB"
    parts = (f"{row.name:20}", f"{row.state:8}", f"pid {row.pid:<8}", f"{memory:>8}")
    restarts = f" {row.restarts} restarts" if row.restarts else ""
    place = row.url or (os.path.relpath(row.log) if row.log else "")
    return f"{' '.join(parts)}  up {row.uptime_s:.0f} s{restarts}  {place}".rstrip()
