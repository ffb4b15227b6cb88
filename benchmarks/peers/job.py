"""The job that every peer does, and how it tells when it began and ended.

Read `actions`; keep each user's newest `KEPT` actions in Redis; of the high-value ones write one
trigger for each closed window into `instruction-triggers`. Runs in every peer's environment: the
standard library alone.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACTIONS, TRIGGERS = "actions", "instruction-triggers"
HIGH_VALUE = frozenset({"order", "cart", "favorite", "search", "dislike"})
WINDOW_MS, GRACE_MS = 300_000, 10_000
KEPT = 200
REDIS_BATCH = 2_000  # entries a round trip, as many as our router sends


@dataclass(frozen=True, slots=True)
class Job:
    """Where to work, after how many actions to stop (0: when told to), and how often to commit.

    `commit_every`: actions; 0: by the peer's own clock.
    """

    bootstrap: str
    redis_url: str
    folder: Path
    actions: int
    commit_every: int


def asked() -> Job:
    """Returns what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--actions", type=int, required=True)
    parser.add_argument("--commit-every", type=int, default=0)
    given = parser.parse_args()
    return Job(**vars(given))


def window_start_ms(event_time_ms: int) -> int:
    """Returns the start of the window `[start, start + WINDOW_MS)` that holds the time."""
    return event_time_ms // WINDOW_MS * WINDOW_MS


def trigger(user_id: str, start_ms: int, actions: Iterable[Any]) -> dict[str, Any]:
    """Returns what is written when a window has closed."""
    return {
        "trigger_id": f"{user_id}:{start_ms}",
        "user_id": user_id,
        "window_start_ms": start_ms,
        "window_end_ms": start_ms + WINDOW_MS,
        "actions": list(actions),
    }


def remember(pipeline: Any, entries: Iterable[tuple[str, int, bytes]]) -> None:
    """Queues the history of `(user id, event time, action as JSON)`: add it, trim to the newest."""
    for user_id, event_time_ms, member in entries:
        key = f"history:{user_id}"
        pipeline.zadd(key, {member: event_time_ms})
        pipeline.zremrangebyrank(key, 0, -KEPT - 1)


class Marks:
    """Prints one line at the first record and one at the end: clock, CPU time, peak memory."""

    def __init__(self) -> None:
        self._began = False

    def began(self) -> None:
        """Says once that the first record is here."""
        if not self._began:
            self._began = True
            _print("began")

    def finished(self) -> None:
        """Says that everything is written and committed."""
        _print("finished")


def _print(what: str) -> None:
    mark = {
        "mark": what,
        "at_s": time.monotonic(),  # one clock for all processes of a machine
        "cpu_s": time.process_time(),
        "peak_kib": _peak_kib(),
    }
    print(json.dumps(mark), flush=True)


def _peak_kib() -> int:
    # Not getrusage: that begins with what the parent held when it started this process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
