"""Draws a freshness report as a PNG: cosine by age of the instruction, and how often each age is.

Needs matplotlib (the `datasets` extra); no display, and no global state of it is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.evaluation.freshness import (
    AGES,
    DAY_AGES,
    AgeRow,
    FreshnessReport,
    TriggerReport,
)

DPI = 120
ORDER = list(dict.fromkeys(name for name, _ in (*DAY_AGES[:1], *AGES)))
COLOURS = ("tab:blue", "tab:orange")
OFFSET = 0.12  # two triggers side by side on one age


@dataclass(frozen=True, slots=True)
class Look:
    """How one trigger is drawn: the ages of the axis, name, colour, and its shift beside them."""

    names: Sequence[str]
    label: str
    colour: str
    shift: float

    def places(self, rows: Sequence[AgeRow]) -> npt.NDArray[np.float64]:
        """Returns where on the axis the rows stand."""
        return np.array([self.names.index(row.age) for row in rows]) + self.shift


def draw_freshness(path: Path, report: FreshnessReport, title: str) -> None:
    """Writes two panels to `path`: cosine with its interval, and shares of the actions."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    cosine, share = figure.subplots(1, 2)
    seen = {row.age for trigger in report.triggers.values() for row in trigger.by_age}
    names = [name for name in ORDER if name in seen]
    for number, (name, trigger) in enumerate(report.triggers.items()):
        shift = OFFSET * (2 * number - len(report.triggers) + 1)
        look = Look(names, f"trigger = {name}", COLOURS[number % 2], shift)
        _cosine(cosine, trigger, look)
        _share(share, trigger, look)
    cosine.set_ylabel("cosine with the next item's text")
    share.set_ylabel("share of the high-value actions")
    for axes in (cosine, share):
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
        axes.set_xlabel("age of the instruction in force")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=DPI)


def _cosine(axes: Axes, trigger: TriggerReport, look: Look) -> None:
    rows = [row for row in trigger.by_age if row.cosine is not None]
    places = look.places(rows)
    means, bounds = [], []
    for row in rows:
        assert row.cosine is not None
        means.append(row.cosine.mean)
        bounds.append((row.cosine.mean - row.cosine.low, row.cosine.high - row.cosine.mean))
    if not rows:
        axes.text(0.5, 0.5, "no item texts", ha="center", transform=axes.transAxes)
        return
    errors = np.maximum(np.array(bounds).T, 0)
    axes.errorbar(
        places, means, yerr=errors, fmt="o", capsize=3, color=look.colour, label=look.label
    )
    chances = [np.nan if row.chance is None else row.chance for row in rows]
    axes.plot(places, chances, "_", markersize=14, color=look.colour, alpha=0.5, label="by chance")


def _share(axes: Axes, trigger: TriggerReport, look: Look) -> None:
    places = look.places(trigger.by_age)
    label = f"{look.label} (none: {trigger.none:.0%})"
    shares = [row.actions / trigger.actions for row in trigger.by_age]
    axes.bar(places, shares, 2 * OFFSET, color=look.colour, label=label)
