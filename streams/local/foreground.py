"""Runs a stack in the foreground: `oxygenrec up`."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from streams.local.spec import StackSpec
from streams.local.stack import TICK_S, LocalStack

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, `down`, a closed terminal


def up(spec: StackSpec, *, ready: Callable[[LocalStack], None] = lambda stack: None) -> None:
    """Starts the stack, calls `ready`, and supervises until Ctrl-C, SIGTERM or a closed terminal.

    A failed start stops what has started and raises its LocalServerError. Call it from the main
    thread: it takes the signals over, also while the stack starts.
    """
    with stop_requested() as stopping, LocalStack(spec) as stack:
        start = _Start(stack)
        while start.thread.is_alive() and not stopping.wait(0.05):
            pass
        if stopping.is_set():
            return
        if start.error is not None:
            raise start.error
        ready(stack)
        while not stopping.wait(TICK_S):
            stack.supervise()


class _Start:
    """Starts a stack beside the main thread, so that a signal can stop it half-way."""

    def __init__(self, stack: LocalStack) -> None:
        self.error: Exception | None = None
        self._stack = stack
        # A daemon: a download that was cut short must not hold the process.
        self.thread = threading.Thread(target=self._run, name="start", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._stack.start()
        except Exception as error:  # noqa: BLE001  the main thread raises it
            self.error = error


@contextlib.contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """Yields an event that the stop signals set, until the end of the context."""
    stopping = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        stopping.set()

    previous = {number: signal.signal(number, request) for number in STOP_SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
