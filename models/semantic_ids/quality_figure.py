"""Draws a quality report as a PNG: how full SIDs are, how loaded codes are, how pure they are.

Needs matplotlib (the `datasets` extra); no display, and no global state of it is touched.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.semantic_ids.quality import PERCENTILE_NAMES, QualityReport

DPI = 120


def draw_quality(
    path: Path, report: QualityReport, sids: npt.NDArray[np.integer], codes: int, title: str
) -> None:
    """Writes three panels to `path`: items per SID, load of each level's codes, purity."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    sizes, load, purity = figure.subplots(1, 3)
    _items_per_sid(sizes, report, sids)
    _load(load, report, sids, codes)
    _purity(purity, report)
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=DPI)


def _items_per_sid(axes: Axes, report: QualityReport, sids: npt.NDArray[np.integer]) -> None:
    sizes = np.unique(sids, axis=0, return_counts=True)[1]
    found, counts = np.unique(sizes, return_counts=True)
    axes.loglog(found, counts, "o")
    tail = zip(PERCENTILE_NAMES, report.items_per_sid, strict=True)
    shown = ", ".join(f"{name} {value:g}" for name, value in tail)
    axes.set(xlabel="items of an SID", ylabel="SIDs")
    axes.set_title(f"{report.collision_rate:.1%} of the items share an SID\n{shown}", fontsize=9)


def _load(axes: Axes, report: QualityReport, sids: npt.NDArray[np.integer], codes: int) -> None:
    for number, level in enumerate(report.levels):
        loads = np.sort(np.bincount(sids[:, number], minlength=codes))[::-1]
        label = f"level {number + 1}: Gini {level.gini:.2f}, perplexity {level.perplexity:.0f}"
        axes.plot(np.arange(1, codes + 1), loads, label=label)
    axes.axhline(len(sids) / codes, color="grey", linestyle=":", label="equal load")
    axes.set(
        xlabel=f"codes by load (of {codes:,})", ylabel="items", yscale="symlog", ylim=(0, None)
    )
    axes.legend(fontsize=8)


def _purity(axes: Axes, report: QualityReport) -> None:
    depths = np.arange(1, len(report.purity) + 1)
    bars = axes.bar(depths, report.purity)
    axes.bar_label(bars, fmt="%.3f", fontsize=8)
    axes.set(xlabel="depth of the category", ylabel="purity of level 1", ylim=(0, 1.1))
    axes.set_xticks(depths)
    if not report.purity:
        axes.text(0.5, 0.5, "no categories", ha="center", transform=axes.transAxes)
