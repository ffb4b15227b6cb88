"""How fast a process' memory grows: a robust slope and its interval. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEP_S = 10.0  # samples are reduced to one median each: they follow each other too closely
BLOCK = 3  # steps that are drawn together: half a minute, longer than a garbage collection's swing
DRAWS = 1_000
HOUR_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Slope:
    """MiB an hour with a bootstrap interval, and the median memory of the time looked at."""

    mib_per_hour: float
    low: float
    high: float
    median_mib: float

    @property
    def percent_per_hour(self) -> float:
        """The slope as a share of the memory."""
        return 100 * self.mib_per_hour / self.median_mib


def slope_of(at_s: Sequence[float], mib: Sequence[float], seed: int = 0) -> Slope:
    """Returns the median slope over all pairs of steps (Theil and Sen).

    The interval is a bootstrap of the residuals in blocks: an allocator's swings last for seconds,
    and samples taken for independent would promise too much. Asked for 95 %, it holds the truth in
    87 % of simulated runs of 400 s with swings of 20 s.
    """
    hours, levels = _steps(np.asarray(at_s) / HOUR_S, np.asarray(mib, dtype=float))
    slope = _theil_sen(hours, levels[None])[0]
    line = slope * hours
    residuals = levels - line
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(hours) - BLOCK + 1, (DRAWS, -(-len(hours) // BLOCK)))
    drawn = (starts[:, :, None] + np.arange(BLOCK)).reshape(DRAWS, -1)[:, : len(hours)]
    low, high = np.quantile(_theil_sen(hours, line + residuals[drawn]), [0.025, 0.975])
    return Slope(float(slope), float(low), float(high), float(np.median(levels)))


def _steps(hours: np.ndarray, mib: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = ((hours - hours[0]) * HOUR_S // STEP_S).astype(int)
    kept = np.unique(step)
    if len(kept) < 2 * BLOCK:
        raise ValueError(f"{len(kept)} steps of {STEP_S:g} s found, {2 * BLOCK} wanted: run longer")
    means = np.array([hours[step == one].mean() for one in kept])
    return means, np.array([np.median(mib[step == one]) for one in kept])


def _theil_sen(hours: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Returns the median slope of each row of `levels` [R, N] over `hours` [N]."""
    first, second = np.triu_indices(len(hours), 1)
    rises = levels[:, second] - levels[:, first]
    slopes: np.ndarray = np.median(rises / (hours[second] - hours[first]), axis=1)
    return slopes
