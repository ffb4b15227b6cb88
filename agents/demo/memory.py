"""How much memory the demo takes: the sum over its processes, sampled while it runs."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

SAMPLE_S = 1.0  # reading the maps of 20 processes takes 20 ms: a hundredth of one core at this rate


class PeakMemory:
    """An async-free context: samples in a thread, keeps the largest sum seen."""

    def __init__(self, process_ids: Callable[[], Iterable[int]]) -> None:
        """`process_ids` names the roots; their children are counted with them."""
        self.peak_bytes = 0
        self._roots = process_ids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        """Starts sampling."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops sampling."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            total = sum(map(proportional_bytes, with_children(self._roots())))
            self.peak_bytes = max(self.peak_bytes, total)


def proportional_bytes(pid: int) -> int:
    """Returns a proportional set size (a page shared by three counts a third); 0 if gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def with_children(roots: Iterable[int]) -> set[int]:
    """Returns the processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it left while we looked
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found
