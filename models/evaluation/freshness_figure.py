"""Draws a freshness report as a PNG: cosine by age of the instruction, and how often each age is.

Needs matplotlib (the `datasets` extra); no display, and no global state of it is touched.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.evaluation.freshness import AGES, FreshnessReport, TriggerReport

DPI = 120
NAMES = [name for name, _ in AGES]
COLOURS = ("tab:blue", "tab:orange")
OFFSET = 0.12  # two triggers side by side on one age


def draw_freshness(path: Path, report: FreshnessReport, title: str) -> None:
    """Writes two panels to `path`: cosine with its interval, and shares of the actions."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    cosine, share = figure.subplots(1, 2)
    for number, (name, trigger) in enumerate(report.triggers.items()):
        shift = OFFSET * (2 * number - len(report.triggers) + 1)
        _cosine(cosine, trigger, f"trigger = {name}", COLOURS[number % 2], shift)
        _share(share, trigger, f"trigger = {name}", COLOURS[number % 2], shift)
    cosine.set_ylabel("cosine with the next item's text")
    share.set_ylabel("share of the high-value actions")
    for axes in (cosine, share):
        axes.set_xticks(range(len(NAMES)), NAMES, rotation=30, ha="right", fontsize=8)
        axes.set_xlabel("age of the instruction in force")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=DPI)


def _cosine(axes: Axes, trigger: TriggerReport, label: str, colour: str, shift: float) -> None:
    rows = [row for row in trigger.by_age if row.cosine is not None]
    places = np.array([NAMES.index(row.age) for row in rows]) + shift
    means, bounds = [], []
    for row in rows:
        assert row.cosine is not None
        means.append(row.cosine.mean)
        bounds.append((row.cosine.mean - row.cosine.low, row.cosine.high - row.cosine.mean))
    if not rows:
        axes.text(0.5, 0.5, "no item texts", ha="center", transform=axes.transAxes)
        return
    errors = np.maximum(np.array(bounds).T, 0)
    axes.errorbar(places, means, yerr=errors, fmt="o", capsize=3, color=colour, label=label)
    chances = [row.chance for row in rows]
    axes.plot(places, chances, "_", markersize=14, color=colour, alpha=0.5, label="by chance")


def _share(axes: Axes, trigger: TriggerReport, label: str, colour: str, shift: float) -> None:
    places = np.array([NAMES.index(row.age) for row in trigger.by_age]) + shift
    shares = [row.actions / trigger.actions for row in trigger.by_age]
    axes.bar(places, shares, 2 * OFFSET, color=colour, label=f"{label} (none: {trigger.none:.0%})")
