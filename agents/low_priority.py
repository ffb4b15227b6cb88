"""Work that must not slow what serves beside it: a training process, a model that is being loaded.

Niceness alone is not enough on Linux: with autogroups (the default of desktops and many servers) it
counts only among processes of one session, and every worker has a session of its own.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

NICENESS = 10  # a tenth of the weight of what serves, and never nothing

T = TypeVar("T")


def lower_process() -> None:
    """Lowers the priority of this process and, where there are autogroups, of its session."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # no autogroups here, or no /proc: niceness has to do
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def in_background(work: Callable[[], T]) -> T:
    """Returns what `work` returns, done on a thread of low priority.

    Niceness is a thread's own on Linux; elsewhere it would stay with the process, so it is left.
    """
    with ThreadPoolExecutor(1, "background", initializer=_lower_thread) as thread:
        return thread.submit(work).result()


def _lower_thread() -> None:
    if sys.platform == "linux":
        os.nice(NICENESS)
