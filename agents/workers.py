"""Every worker by name, and its entry point: imported only when that worker is started."""

import asyncio
import contextlib
import difflib
import gc
import importlib
import inspect
import signal
from collections.abc import Coroutine
from typing import Any

import uvloop

from agents.exit_codes import ExitCode
from agents.settings import Settings
from schemas.errors import OxygenRecError
from streams import metrics

WORKERS: dict[str, str] = {
    "edge": "agents.edge.http",
    "router": "agents.router",
    "window-aggregator": "agents.window_aggregator",
    "instruction-writer": "agents.instruction_writer",
    "catalog-indexer": "agents.catalog_indexer",
    "reward-joiner": "agents.reward_joiner",
    "policy-trainer": "agents.policy_trainer",
}

# Python's 700 are fewer than the objects of one batch, all of them alive: walking through them was
# a tenth of the router's CPU time.
YOUNG_OBJECTS = 10_000


class UnknownWorker(OxygenRecError):
    """No worker has that name; the message names the nearest one."""

    exit_code = ExitCode.USAGE

    def __init__(self, *, name: str) -> None:
        self.name = name
        self.nearest = difflib.get_close_matches(name, WORKERS, n=1, cutoff=0.0)[0]
        super().__init__(
            f"no worker {name!r}: did you mean {self.nearest}? One of {', '.join(WORKERS)}"
        )


def run_worker(name: str, settings: Settings) -> None:
    """Runs one worker until it is stopped by SIGTERM or Ctrl-C. Raises `UnknownWorker`.

    An entry point is `run(settings)`: a function that returns when it is done, or a coroutine
    function. A worker that installs its own signal handlers replaces the ones set here.
    """
    if name not in WORKERS:
        raise UnknownWorker(name=name)
    signal.signal(signal.SIGTERM, _interrupt)
    if settings.metrics.port:
        metrics.serve(settings.metrics.port, settings.metrics.host)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        entry = importlib.import_module(WORKERS[name])
        gc.freeze()  # what was imported stays: no collection walks through it again
        gc.set_threshold(YOUNG_OBJECTS)
        outcome = entry.run(settings)
        if inspect.iscoroutine(outcome):
            # A fifth less CPU a record than asyncio's own loop (docs/benchmarks.md, near_line).
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_until_stopped(outcome))


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


async def _until_stopped(worker: Coroutine[Any, Any, None]) -> None:
    """Awaits the worker; SIGTERM and SIGINT cancel it, so that its `finally` blocks run."""
    task = asyncio.ensure_future(worker)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, task.cancel)
    try:
        await task
    except ExceptionGroup as group:
        cause = _only_cause(group)
        if isinstance(cause, OxygenRecError):
            raise cause from group  # one line for the operator, however deep the task was
        raise


def _only_cause(group: ExceptionGroup[Exception]) -> Exception:
    cause: Exception = group
    while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    return cause
