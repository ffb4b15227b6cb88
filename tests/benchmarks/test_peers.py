"""What the peers' benchmark compares with, and a peer's windows by hand."""

import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import near_line_peers
from benchmarks.peers import aiokafka_job, environments, job
from benchmarks.peers.log import (
    DISORDER_MS,
    Comparison,
    Told,
    compared,
    log_of,
    one_user_each,
)
from benchmarks.peers.runs import Run
from schemas.actions import UserAction
from streams.partitioner import partition_of

PARTITIONS = 4
# Two hours behind it the log's 40 s lie around a window's end, so that grace matters.
NOW_MS = 1_790_000_000_000 // job.WINDOW_MS * job.WINDOW_MS + 20_000
LOG = log_of(20_000, PARTITIONS, NOW_MS)
ENDS = one_user_each(PARTITIONS)
RUN = Run(1.0, {}, {}, 0.0, Comparison(0, 0, 0, 0, 0, 0), 0)


def right() -> list[Told]:
    return [_told(user, start, events) for (user, start), events in LOG.windows.items()]


def _told(user: str, start_ms: int, events: Iterable[str]) -> Told:
    actions: list[dict[str, Any]] = [{"event_id": e, "event_time_ms": 0} for e in sorted(events)]
    return Told(user, start_ms, actions)


def test_the_recount_counts_every_high_value_action_once() -> None:
    assert sum(map(len, LOG.windows.values())) == 20_000 // 25
    assert any(len(events) > 1 for events in LOG.windows.values())
    assert len({start_ms for _, start_ms in LOG.windows}) == 2


def test_the_log_is_out_of_order_by_less_than_the_grace() -> None:
    newest_ms, behind_ms = 0, 0
    for _, value in LOG.records:
        at_ms = msgspec.json.decode(value, type=UserAction).event_time_ms
        newest_ms = max(newest_ms, at_ms)
        behind_ms = max(behind_ms, newest_ms - at_ms)
    assert 0 < behind_ms < DISORDER_MS + 1 < job.GRACE_MS
    assert newest_ms < NOW_MS


def test_every_partition_ends_with_an_action_that_closes_all() -> None:
    assert [partition_of(user.encode(), PARTITIONS) for user in ENDS] == list(range(PARTITIONS))
    assert [key.decode() for key, _ in LOG.records[-PARTITIONS:]] == ENDS


def test_right_triggers_are_right_whatever_the_ends_say() -> None:
    told = compared(LOG.windows, [*right(), _told(ENDS[0], 0, ["x"])], ends=ENDS)
    assert (told.right, told.wanted) == (len(LOG.windows), len(LOG.windows))
    assert (told.missing, told.different, told.surplus, told.repeated) == (0, 0, 0, 0)


def test_each_kind_of_wrong_trigger_is_told_apart() -> None:
    first, second, third, *others = right()
    wrong = [
        *others,
        third,
        third,  # repeated
        _told(second.user_id, second.window_start_ms, ["another"]),
        _told("nobody", 0, ["x"]),
    ]
    told = compared(LOG.windows, wrong, ends=ENDS)
    assert told.right == len(LOG.windows) - 2
    assert (told.missing, told.different, told.surplus, told.repeated) == (1, 1, 1, 1)
    contradicting = [*right(), _told(first.user_id, first.window_start_ms, ["another"])]
    assert compared(LOG.windows, contradicting, ends=ENDS).different == 1


def test_the_loop_by_hand_closes_the_windows_of_the_recount() -> None:
    windows: dict[int, aiokafka_job.Windows] = defaultdict(aiokafka_job.Windows)
    told = []
    for offset, (key, value) in enumerate(LOG.records):
        partition = windows[partition_of(key, PARTITIONS)]
        partition.observe(aiokafka_job.decoder.decode(value), offset)
        told += [msgspec.json.decode(trigger, type=Told) for _, trigger in partition.close()]
    found = compared(LOG.windows, told, ends=ENDS)
    assert found.right == found.wanted
    assert found.surplus == found.repeated == 0


def test_the_loop_by_hand_commits_nothing_that_is_behind_an_open_window() -> None:
    windows = aiokafka_job.Windows()
    for offset, kind in enumerate(("click", "cart", "click")):
        windows.observe(aiokafka_job.Action("event", "user", kind, 0), offset)
    assert windows.safe_offset() == 1


def test_an_environment_that_cannot_be_made_says_why_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(command: list[str], **_: Any) -> None:
        if "pip" in command:
            raise subprocess.CalledProcessError(1, "pip", stderr="ERROR: no such version\n")
        Path(command[-1]).mkdir(parents=True)

    monkeypatch.setenv("OXYGENREC_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", refuse)
    for _ in range(2):  # nothing half made is taken for whole
        with pytest.raises(environments.PeerUnavailable, match="no such version"):
            environments.python_of("bytewax")


def test_systems_run_in_turn_and_none_begins_behind_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def work(at: object, log: object, name: str) -> Run:
        ran.append(name)
        if name == "bytewax":
            raise environments.PeerUnavailable(peer=name, why="no wheel")
        return RUN

    monkeypatch.setattr(
        near_line_peers, "SYSTEMS", {"oxygenrec": "oxygenrec", "bytewax": "bytewax"}
    )
    monkeypatch.setattr(near_line_peers, "empty_servers", lambda folder: nullcontext())
    monkeypatch.setattr(near_line_peers, "run", work)
    names = ["oxygenrec", "bytewax"] * 2
    runs, faults = near_line_peers._in_turn(LOG, names, time.monotonic() + 60)
    assert ran == names
    assert (len(runs["oxygenrec"]), runs["bytewax"]) == (2, [])
    assert faults == {"bytewax": "no wheel"}
    runs, faults = near_line_peers._in_turn(LOG, names, time.monotonic() - 1)
    assert len(ran) == len(names)
    assert faults.keys() == {"oxygenrec", "bytewax"}
