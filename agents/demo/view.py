"""What the demo shows: progress bars for the long parts, then one live panel.

Without a terminal the same things are plain lines: a stage as it begins and ends, the panel's rows
every ten seconds.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Rows = Sequence[tuple[str, str]]

REFRESH_PER_S = 4
PLAIN_EVERY_S = 10.0
PLAIN_STEPS = 4  # lines a stage gets without a terminal: at 25, 50, 75 and 100 %


@dataclass(slots=True)
class Stage:
    """One long part, advanced by whoever does it."""

    name: str
    total: float
    view: "DemoView"
    task: TaskID | None = None
    said: int = 0

    def advance_to(self, done: float, note: str = "") -> None:
        """Shows that `done` of `total` is done."""
        self.view.show_stage(self, done, note)


class DemoView:
    """Speaks to one console; every plain line begins with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._progress: Progress | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started

    def say(self, line: str) -> None:
        """Prints one line."""
        text = Text(f"{self.seconds:6.1f} s  ", style="dim")
        text.append(line, style="not dim")
        self._console.print(text, soft_wrap=True)

    @contextlib.contextmanager
    def stages(self) -> Iterator[None]:
        """Shows the stages begun inside as progress bars, side by side."""
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description:28}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console) as self._progress:
            yield
        self._progress = None

    def begin(self, name: str, total: float = 1.0) -> Stage:
        """Returns a stage that has begun."""
        stage = Stage(name=name, total=total, view=self)
        if self._progress is not None:
            stage.task = self._progress.add_task(name, total=total, note="")
        else:
            self.say(f"{name} ...")
        return stage

    def show_stage(self, stage: Stage, done: float, note: str) -> None:
        """Moves a stage's bar, or says so a few times where there is no terminal."""
        if self._progress is not None and stage.task is not None:
            self._progress.update(stage.task, completed=done, total=stage.total, note=note)
            return
        step = int(PLAIN_STEPS * done / stage.total)
        if step > stage.said:
            stage.said = step
            self.say(f"{stage.name}: {100 * done / stage.total:.0f} %  {note}".rstrip())

    @contextlib.contextmanager
    def live(self, title: str, rows: Callable[[], Rows]) -> Iterator[Callable[[], None]]:
        """Shows `rows()` as a panel that is redrawn whenever the yielded function is called."""
        if not self._console.is_terminal:
            yield self._plain_lines(rows)
            return
        with Live(console=self._console, refresh_per_second=REFRESH_PER_S) as live:
            yield lambda: live.update(panel(title, rows()))

    def _plain_lines(self, rows: Callable[[], Rows]) -> Callable[[], None]:
        last = self.seconds

        def draw() -> None:
            nonlocal last
            if self.seconds - last >= PLAIN_EVERY_S:
                last = self.seconds
                self.say("; ".join(f"{label} {text}".strip() for label, text in rows()))

        return draw


def panel(title: str, rows: Rows) -> Panel:
    """Returns the live panel: a label and a text a row."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    return Panel(table, title=title, title_align="left", border_style="cyan")
