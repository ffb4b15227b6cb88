"""What a run's steps looked like, in two forms: JSON lines, and event files for TensorBoard.

The lines hold what data and configuration decide, and are equal for equal runs; rows a second,
which a clock decides, stand in the events alone. Both are flushed at every step, and a run that
goes on at its checkpoint, which is older, takes back the steps that it repeats.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from models.training.training_loop import Progress

LOSSES = ("loss", "code_ce", "item_ce", "query_to_item", "balance")
OTHERS = ("learning_rate", "gradient_norm", "epoch")


class Curves:
    """A callback of `training_loop.train`. Not for several processes: the first one's alone."""

    def __init__(self, lines: Path, events: Path, clock: Callable[[], float]) -> None:
        """`lines` is a file, `events` a folder; `clock` returns Unix time in seconds."""
        lines.parent.mkdir(parents=True, exist_ok=True)
        self._lines: TextIO = lines.open("a+")
        self._folder = events
        self._clock = clock
        self._events: RecordWriter | None = None
        self._last_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()
        if self._events is not None:
            self._events.close()

    def __call__(self, step: Progress) -> None:
        """Appends one step to both."""
        now_s = self._clock()
        scalars = {f"losses/{name}": float(getattr(step, name)) for name in LOSSES}
        scalars |= {f"training/{name}": float(getattr(step, name)) for name in OTHERS}
        if self._events is None:  # no step before it to measure its time from
            cut_back(self._lines, step.step)
            self._events = _opened(self._folder, step.step, now_s)
        else:
            scalars["training/rows_per_second"] = step.rows / max(now_s - self._last_s, 1e-9)
        self._last_s = now_s
        self._lines.write(json.dumps(asdict(step)) + "\n")
        self._lines.flush()
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        _append(self._events, Event(wall_time=now_s, step=step.step, summary=Summary(value=values)))


def cut_back(file: TextIO, step: int) -> None:
    """Takes back the lines from `step` on, and a torn last one."""
    file.seek(0)
    lines = [text for text in file if text.endswith("\n") and json.loads(text)["step"] < step]
    file.seek(0)
    file.truncate()
    file.writelines(lines)


def _opened(folder: Path, step: int, now_s: float) -> RecordWriter:
    """Returns a new file behind those of the folder, which hides their points from `step` on.

    TensorBoard reads the files of a folder in the order of their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{int(now_s * 1_000):013d}.{step}"
    events = RecordWriter(str(folder / name))
    _append(events, Event(wall_time=now_s, file_version="brain.Event:2"))
    start = SessionLog(status=SessionLog.START)
    _append(events, Event(wall_time=now_s, step=step, session_log=start))
    return events


def _append(events: RecordWriter, event: Event) -> None:
    events.write(event.SerializeToString())
    events.flush()
