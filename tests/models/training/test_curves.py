"""Lines and event files: what TensorBoard shows of a run, and of one that was cut."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog

from models.training.curves import Curves
from models.training.training_loop import Progress


class Clock:
    """Half a second a step."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        self.now_s += 0.5
        return self.now_s


def step(number: int, loss: float) -> Progress:
    return Progress(
        step=number,
        steps=9,
        epoch=1,
        rows=64,
        learning_rate=1e-3,
        gradient_norm=2.0,
        loss=loss,
        code_ce=3.0,
        item_ce=4.0,
    )


def events(folder: Path) -> Iterator[Event]:
    """Yields what stands in a folder, in TensorBoard's order: length, its CRC, bytes, their CRC."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def shown(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard draws: a session's start hides what stood at its step and behind it."""
    points: list[tuple[int, float]] = []
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            points = [point for point in points if point[0] < event.step]
        points += [(event.step, v.simple_value) for v in event.summary.value if v.tag == tag]
    return points


def test_every_step_is_a_line_and_a_point_of_each_curve(tmp_path: Path) -> None:
    lines, folder = tmp_path / "training" / "1.jsonl", tmp_path / "tensorboard" / "1"
    with Curves(lines, folder, Clock()) as curves:
        curves(step(1, 8.0))
        curves(step(2, 7.0))
        # Both are on the disk before the run ends: a kill loses no step.
        assert shown(folder, "losses/loss") == [(1, 8.0), (2, 7.0)]
        assert len(lines.read_text().splitlines()) == 2
    assert shown(folder, "losses/item_ce") == [(1, 4.0), (2, 4.0)]
    assert shown(folder, "training/gradient_norm") == [(1, 2.0), (2, 2.0)]
    assert [number for number, _ in shown(folder, "training/learning_rate")] == [1, 2]
    assert shown(folder, "training/rows_per_second") == [(2, 128.0)]  # step 1 has none before it
    first = json.loads(lines.read_text().splitlines()[0])
    assert (first["step"], first["loss"], first["rows"]) == (1, 8.0, 64)
    assert next(events(folder)).file_version == "brain.Event:2"


def test_a_run_that_goes_on_shows_no_step_twice(tmp_path: Path) -> None:
    lines, folder = tmp_path / "1.jsonl", tmp_path / "1"
    clock = Clock()
    with Curves(lines, folder, clock) as curves:
        for number in (1, 2, 3, 4):
            curves(step(number, 8.0))
    with lines.open("a") as file:
        file.write('{"step": 5, "lo')  # a kill amid a write
    with Curves(lines, folder, clock) as curves:  # the checkpoint stood behind step 2
        for number in (3, 4, 5):
            curves(step(number, 6.0))
    assert len(list(folder.iterdir())) == 2
    wanted = [(1, 8.0), (2, 8.0), (3, 6.0), (4, 6.0), (5, 6.0)]
    assert shown(folder, "losses/loss") == wanted
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in told] == wanted


def test_a_run_that_writes_no_step_leaves_what_was_there(tmp_path: Path) -> None:
    lines, folder = tmp_path / "1.jsonl", tmp_path / "1"
    with Curves(lines, folder, Clock()) as curves:
        curves(step(1, 8.0))
    with Curves(lines, folder, Clock(1_800_000_000.0)):
        pass
    assert shown(folder, "losses/loss") == [(1, 8.0)]
    assert len(lines.read_text().splitlines()) == 1
