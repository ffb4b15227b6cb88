"""Our own processes: how one is started, when it is ready, how soon it is started again."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streams.local.ports import free_port
from streams.local.process import LocalProcess
from streams.local.state import Addresses

FIRST_DELAY_S = 0.5  # a crash is healed before a consumer group has noticed it
LONGEST_DELAY_S = 30.0
STEADY_S = 60.0  # a worker that lived this long has not failed to start: its count begins anew


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker: its command, its own settings, and how to see that it is ready.

    `ready` is a function, or an address that then answers 2xx (`{http_url}` is filled in); None
    means that to run is enough.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] | str | None = None
    ready_timeout_s: float = 60.0
    url: str = ""


def restart_delay_s(failures: int) -> float:
    """Returns how long to wait before restart number `failures` (from 1): 0.5, 1, 2 ... 30 s."""
    return float(min(FIRST_DELAY_S * 2 ** (failures - 1), LONGEST_DELAY_S))


class Worker:
    """One worker process and its restarts. It decides; the stack calls it and acts."""

    def __init__(
        self, name: str, spec: WorkerSpec, *, addresses: Addresses, home: Path, log: Path
    ) -> None:
        self.name = name
        self.restarts = 0
        self.url = spec.url.format(http_url=addresses.http_url)
        # The edge shows its metrics on its own address; the others each get a port for theirs.
        self.metrics_port = free_port() if not spec.url else addresses.http_port
        own = {} if spec.url else {"OXYGENREC_METRICS__PORT": str(self.metrics_port)}
        given = {**addresses.environment(home), **own, **spec.env}
        environment = {"PYTHONUNBUFFERED": "1", **given}
        self.process = LocalProcess(name, spec.argv, log=log, environment=environment)
        self.supervised = False  # once it was ready: a worker that cannot start is an error instead
        self._spec = spec
        self._ready_url = (
            spec.ready.format(http_url=addresses.http_url) if isinstance(spec.ready, str) else ""
        )
        self._failures = 0
        self._started_s = 0.0
        self._due_s: float | None = None

    def start(self) -> None:
        """Starts the process."""
        self.process.start()
        self._started_s, self._due_s = time.monotonic(), None

    def wait_ready(self) -> None:
        """Returns when it is ready; raises ServerExited or ServerNotReady."""
        self.process.wait_ready(self._ready, timeout_s=self._spec.ready_timeout_s)
        self.supervised = True

    def fell(self, now_s: float) -> float | None:
        """Notes that the process has ended; returns the delay of its restart, None if known."""
        if self.process.alive or self._due_s is not None:
            return None
        steady = now_s - self._started_s > STEADY_S
        self._failures = 1 if steady else self._failures + 1
        delay_s = restart_delay_s(self._failures)
        self._due_s = now_s + delay_s
        return delay_s

    def due(self, now_s: float) -> bool:
        """Whether it has fallen and its delay is over."""
        return self._due_s is not None and now_s >= self._due_s

    def restart(self) -> None:
        """Clears what the fallen process left and starts it anew."""
        self.process.reap()
        self.restarts += 1
        self.start()

    def _ready(self) -> bool:
        if callable(self._spec.ready):
            return self._spec.ready()
        return answers(self._ready_url) if self._ready_url else True


def answers(url: str) -> bool:
    """Tells whether an address answers 2xx; raises OSError when nothing listens there."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310  http on loopback
            return bool(200 <= answer.status < 300)
    except urllib.error.HTTPError as error:
        error.close()
        return False
