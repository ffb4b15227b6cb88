"""Kills the processes of a supervisor that has died, by whatever signal, kill -9 included.

The supervisor starts this file as a script and keeps the other end of its standard input. Each line
registers (`+`) or releases (`-`) one process group: `+ PGID START_MARK`. When the supervisor dies
the kernel closes the pipe, the end of the file arrives here, and every group that is still
registered is killed. It needs neither a signal nor a thread in the supervisor (PR_SET_PDEATHSIG
would fire when the starting *thread* ends, and never reaches grandchildren such as Triton's stubs).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

GRACE_S = 10.0  # Triton's own exit takes 3 s and frees its shared memory, Kafka's up to 5 s


def start_mark(pid: int) -> str | None:
    """Returns what tells this process from a later one with the same id, or None if it is gone.

    It is the start time in clock ticks since boot, with the boot's id. A zombie counts as gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{fields[19]}@{boot}"


def signal_group(pgid: int, mark: str, signum: int) -> None:
    """Signals a group unless its id has meanwhile gone to another process."""
    if start_mark(pgid) in {None, mark}:  # None: the leader left, its children may still be there
        try:
            os.killpg(pgid, signum)
        except (ProcessLookupError, PermissionError):
            return


def group_runs(pgid: int) -> bool:
    """Tells whether a group has a member that still runs; one that waits to be collected does not.

    `killpg(pgid, 0)` would count zombies too: an orphan stays one where no init collects it.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[2]) == pgid and fields[0] not in "ZX":
            return True
    return False


def kill_groups(groups: Mapping[int, str], grace_s: float = GRACE_S) -> None:
    """Terminates all groups at once, and kills those that are left after `grace_s`."""
    for pgid, mark in groups.items():
        signal_group(pgid, mark, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(map(group_runs, groups)):
        time.sleep(0.05)
    for pgid, mark in groups.items():
        signal_group(pgid, mark, signal.SIGKILL)


def main() -> None:
    """Reads registrations until the supervisor is gone, then kills what is left of it."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # only the end of the pipe ends the guard
    groups: dict[int, str] = {}
    for line in sys.stdin:
        sign, pgid, mark = line.split()
        if sign == "+":
            groups[int(pgid)] = mark
        else:
            groups.pop(int(pgid), None)
    kill_groups(groups)


if __name__ == "__main__":
    main()
