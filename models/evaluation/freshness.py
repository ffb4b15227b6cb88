"""Intent drift: how well the instruction in force still fits what its user does next, by its age.

Of each high-value action: how old the user's instruction was when it came, and the cosine between
the instruction's vector and the text vector of the item that was chosen. Intervals draw users, for
the actions of one user are not independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.evaluation.steering import NothingToCompare

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NONE_IN_FORCE = -1
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
# Upper bounds. 5 minutes: a window; 36 hours: an instruction expires.
Ages = Sequence[tuple[str, int]]
AGES: Ages = (
    ("< 1 min", MINUTE_MS),
    ("1-5 min", 5 * MINUTE_MS),
    ("5-30 min", 30 * MINUTE_MS),
    ("0.5-6 h", 6 * HOUR_MS),
    ("6-36 h", 36 * HOUR_MS),
    ("36 h-7 d", 7 * DAY_MS),
    ("7-30 d", 30 * DAY_MS),
    ("> 30 d", 2**62),
)
# Where only days are known, minutes are ours: nothing is said about ages below an expiry.
DAY_AGES = (("< 36 h", 36 * HOUR_MS), *AGES[5:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The A high-value actions of a replay, the same ones in the same order for each trigger.

    `users` [A] numbers; `age_ms` [A], from the time that the instruction speaks about (a window's
    end, or its first action), -1 where none was there yet; `cosine` [A], NaN
    where there is no instruction or no item vector; `chance` [A]: the cosine with the item of
    another action.
    """

    users: Integers
    age_ms: Integers
    cosine: Floats
    chance: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over actions with the bounds of its bootstrap interval over users."""

    mean: float
    low: float
    high: float
    actions: int
    users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeRow:
    """The actions whose instruction had this age; None where no cosine is known."""

    age: str
    actions: int
    cosine: Interval | None
    chance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerReport:
    """One trigger: shares of all actions, ages in seconds of what was in force.

    `fresh`: under an instruction that had not expired; `expired`; `none`: the first ones of a user.
    """

    actions: int
    fresh: float
    expired: float
    none: float
    median_age_s: float | None
    p90_age_s: float | None
    by_age: Sequence[AgeRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two triggers on the same actions; only instructions that have not expired count.

    `gap`: the cosine under `other` less that under `one`, where both had an instruction. `gained`:
    the cosine under `other` where `one` had none, and `chance` there.
    """

    one: str
    other: str
    gap: Interval | None
    gained: Interval | None
    chance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessReport:
    """Each trigger by its name, and the second compared with the first where there are two."""

    triggers: Mapping[str, TriggerReport]
    comparison: Comparison | None


def report(
    replays: Mapping[str, Replayed],
    expires_ms: int,
    rng: np.random.Generator,
    ages: Ages = AGES,
) -> FreshnessReport:
    """Returns the report of one replay a trigger; two triggers are compared with each other.

    Raises `NothingToCompare` where there is no action.
    """
    if not replays or any(len(replayed.users) == 0 for replayed in replays.values()):
        raise NothingToCompare(found="no high-value action with an item")
    triggers = {
        name: _of_trigger(replayed, expires_ms, rng, ages) for name, replayed in replays.items()
    }
    comparison = None
    if len(replays) == 2:
        one, other = replays
        comparison = _compare(replays, one, other, expires_ms, rng)
    return FreshnessReport(triggers=triggers, comparison=comparison)


def by_user(
    values: Floats,
    users: Integers,
    rng: np.random.Generator,
    *,
    draws: int = 1_000,
    level: float = 0.95,
) -> Interval:
    """Returns the mean of `values` [A] and its percentile interval; whole users are drawn.

    Raises `NothingToCompare`.
    """
    if len(values) == 0 or len(values) != len(users):
        raise NothingToCompare(found=f"{len(values)} values of {len(users)} users")
    _, place = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(place, weights=values), np.bincount(place)
    means = np.empty(draws)
    for draw in range(draws):  # one at a time: [draws, users] picks would fill the memory
        picked = rng.integers(0, len(sums), size=len(sums))
        means[draw] = sums[picked].sum() / counts[picked].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        mean=float(values.mean()),
        low=float(low),
        high=float(high),
        actions=len(values),
        users=len(sums),
    )


def _of_trigger(
    replayed: Replayed, expires_ms: int, rng: np.random.Generator, ages: Ages
) -> TriggerReport:
    actions = len(replayed.users)
    known = replayed.age_ms[replayed.age_ms != NONE_IN_FORCE]
    fresh = known[known <= expires_ms]
    median, p90 = np.quantile(fresh, [0.5, 0.9]) / 1_000 if len(fresh) else (None, None)
    return TriggerReport(
        actions=actions,
        fresh=len(fresh) / actions,
        expired=(len(known) - len(fresh)) / actions,
        none=1 - len(known) / actions,
        median_age_s=None if median is None else float(median),
        p90_age_s=None if p90 is None else float(p90),
        by_age=_by_age(replayed, rng, ages),
    )


def _by_age(replayed: Replayed, rng: np.random.Generator, ages: Ages) -> list[AgeRow]:
    rows, begin_ms = [], 0
    for name, end_ms in ages:
        inside = (replayed.age_ms >= begin_ms) & (replayed.age_ms < end_ms)
        judged = inside & np.isfinite(replayed.cosine)
        begin_ms = end_ms
        if not inside.any():
            continue
        cosine, chance = None, None
        if judged.any():
            cosine = by_user(replayed.cosine[judged], replayed.users[judged], rng)
            chance = _mean(replayed.chance[judged])
        rows.append(AgeRow(age=name, actions=int(inside.sum()), cosine=cosine, chance=chance))
    return rows


def _compare(
    replays: Mapping[str, Replayed],
    one: str,
    other: str,
    expires_ms: int,
    rng: np.random.Generator,
) -> Comparison:
    before, after = replays[one], replays[other]
    had, has = (
        np.isfinite(replayed.cosine) & (replayed.age_ms <= expires_ms)
        for replayed in (before, after)
    )
    both, gained = had & has, ~had & has
    gaps = after.cosine - before.cosine
    return Comparison(
        one=one,
        other=other,
        gap=by_user(gaps[both], after.users[both], rng) if both.any() else None,
        gained=by_user(after.cosine[gained], after.users[gained], rng) if gained.any() else None,
        chance=_mean(after.chance[gained]),
    )


def _mean(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
