"""Do instructions steer? Shares of a slate in the wanted category, compared user by user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import OxygenRecError


class NothingToCompare(OxygenRecError):
    """Paired figures that are not one a user, or of nobody."""

    def __init__(self, *, found: str) -> None:
        self.found = found
        super().__init__(f"steering: found {found}, wanted two figures for each of 1 or more users")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Mean of (one - other) over users, with the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float
    users: int


def category_share(slate: Sequence[int], wanted: str, category_of: Mapping[int, str]) -> float:
    """Returns the share of the slate's items in the wanted category; 0 for an empty slate."""
    if not slate:
        return 0.0
    return sum(category_of.get(key) == wanted for key in slate) / len(slate)


def hit(slate: Sequence[int], target: int) -> float:
    """Returns 1 when the target is in the slate (HR@len(slate) of one user), else 0."""
    return float(target in slate)


def paired_difference(
    one: Sequence[float],
    other: Sequence[float],
    rng: np.random.Generator,
    *,
    draws: int = 2_000,
    level: float = 0.95,
) -> PairedDifference:
    """Returns mean and percentile bootstrap interval of `one - other`; users are drawn, pairs kept.

    Raises `NothingToCompare`.
    """
    if len(one) != len(other) or not one:
        raise NothingToCompare(found=f"{len(one)} and {len(other)} figures")
    gaps: npt.NDArray[np.float64] = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    picks = rng.integers(0, len(gaps), size=(draws, len(gaps)))
    low, high = np.quantile(gaps[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return PairedDifference(
        mean=float(gaps.mean()), low=float(low), high=float(high), users=len(gaps)
    )


def shuffled(count: int, rng: np.random.Generator) -> list[int]:
    """Returns for each of `count` users another one: a cycle through a random order."""
    if count < 2:
        raise NothingToCompare(found=f"{count} users to exchange instructions among")
    order = rng.permutation(count)
    others = np.empty(count, dtype=int)
    others[order] = np.roll(order, 1)
    return [int(number) for number in others]
