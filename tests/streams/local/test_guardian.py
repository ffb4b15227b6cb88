"""The guardian: whom it kills, and whom it must never touch."""

import os
import signal
import subprocess
import time

from streams.local.guardian import kill_groups, signal_group, start_mark


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], start_new_session=True)


def test_a_recycled_process_id_is_never_signalled() -> None:
    stranger = sleeper()
    try:
        kill_groups({stranger.pid: "1@another-start"}, grace_s=0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_mark_is_that_of_one_start_and_gone_with_the_process() -> None:
    first, second = sleeper(), sleeper()
    try:
        assert start_mark(first.pid) == start_mark(first.pid) is not None
        time.sleep(0.02)  # two clock ticks
        third = sleeper()
        assert start_mark(third.pid) != start_mark(first.pid)
        third.kill()
        third.wait()
        assert start_mark(third.pid) is None
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def test_a_zombie_counts_as_gone() -> None:
    process = sleeper()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet collected
    assert start_mark(process.pid) is None
    process.wait()


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], start_new_session=True
    )
    mark = start_mark(stubborn.pid) or ""
    time.sleep(0.1)  # until the trap is set
    kill_groups({stubborn.pid: mark}, grace_s=0.2)
    assert stubborn.wait(5) == -signal.SIGKILL


def test_signalling_a_group_that_is_gone_does_nothing() -> None:
    process = sleeper()
    mark = start_mark(process.pid) or ""
    process.kill()
    process.wait()
    signal_group(process.pid, mark, signal.SIGKILL)
