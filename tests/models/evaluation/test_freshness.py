"""Intent drift: shares, ages, and intervals that draw users."""

from pathlib import Path

import numpy as np
import pytest

from models.evaluation.freshness import Replayed, by_user, report
from models.evaluation.freshness_figure import draw_freshness
from models.evaluation.steering import NothingToCompare

EXPIRES_MS = 36 * 3_600_000
NAN = float("nan")


def replayed(
    users: list[int], age_ms: list[int], cosine: list[float], chance: float = 0.1
) -> Replayed:
    return Replayed(
        users=np.array(users),
        age_ms=np.array(age_ms),
        cosine=np.array(cosine),
        chance=np.where(np.isnan(cosine), NAN, chance),
    )


CLOSE = replayed([0, 0, 1, 1], [-1, 400_000, 30_000, EXPIRES_MS + 1], [NAN, 0.2, 0.4, 0.1])
FIRST = replayed([0, 0, 1, 1], [-1, 50_000, 20_000, 59_999], [NAN, 0.3, 0.4, 0.6])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_shares_ages_and_cosines_are_those_of_the_actions() -> None:
    found = report({"close": CLOSE, "first": FIRST}, EXPIRES_MS, rng())
    close, first = found.triggers["close"], found.triggers["first"]
    assert (close.fresh, close.expired, close.none) == (0.5, 0.25, 0.25)
    assert (first.fresh, first.expired, first.none) == (0.75, 0.0, 0.25)
    assert (close.median_age_s, first.median_age_s) == (215.0, 50.0)
    rows = {row.age: row for row in close.by_age}
    assert {age: row.actions for age, row in rows.items()} == {
        "< 1 min": 1,
        "5-30 min": 1,
        "36 h-7 d": 1,
    }
    cosines = [row.cosine.mean for row in close.by_age if row.cosine]
    assert cosines == pytest.approx([0.4, 0.2, 0.1])
    [row] = first.by_age
    assert row.cosine is not None
    assert (row.actions, row.cosine.users) == (3, 2)
    assert row.chance == pytest.approx(0.1)


def test_triggers_are_compared_on_the_same_actions_and_expired_ones_do_not_count() -> None:
    both = report({"close": CLOSE, "first": FIRST}, EXPIRES_MS, rng()).comparison
    assert both is not None
    assert (both.one, both.other) == ("close", "first")
    assert both.gap is not None
    assert both.gap.actions == 2
    assert both.gap.mean == pytest.approx(0.05)
    assert both.gained is not None
    assert (both.gained.actions, both.gained.mean) == (1, 0.6)
    assert report({"close": CLOSE}, EXPIRES_MS, rng()).comparison is None


def test_without_cosines_there_are_ages_alone() -> None:
    blind = replayed([0, 1], [10, 20], [NAN, NAN])
    found = report({"close": blind, "first": blind}, EXPIRES_MS, rng())
    assert found.triggers["close"].by_age[0].cosine is None
    assert found.comparison is not None
    assert (found.comparison.gap, found.comparison.gained) == (None, None)


def test_items_without_words_leave_chance_where_it_is() -> None:
    one = replayed([0, 1], [10, 20], [0.5, 0.7])
    half = Replayed(
        users=one.users, age_ms=one.age_ms, cosine=one.cosine, chance=np.array([0.2, NAN])
    )
    found = report({"close": half}, EXPIRES_MS, rng())
    assert found.triggers["close"].by_age[0].chance == 0.2


def test_an_interval_draws_users_and_not_their_actions() -> None:
    # two kinds of users, 50 equal actions each: drawn by action the interval would be tiny
    users = np.repeat(np.arange(20), 50)
    values = (users % 2).astype(float)
    found = by_user(values, users, rng())
    drawn = [np.mean(rng_.integers(0, 2, 20)) for rng_ in [rng()] for _ in range(4_000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.mean, found.actions, found.users) == (0.5, 1_000, 20)
    assert found.low == pytest.approx(low, abs=0.051)
    assert found.high == pytest.approx(high, abs=0.051)


def test_an_interval_weighs_users_by_their_actions() -> None:
    values, users = np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 9])
    found = by_user(values, users, rng())
    assert (found.mean, found.low, found.high) == (0.75, 0.0, 1.0)


def test_nothing_is_refused_by_name() -> None:
    empty = replayed([], [], [])
    with pytest.raises(NothingToCompare, match="no high-value action"):
        report({"close": empty, "first": empty}, EXPIRES_MS, rng())


def test_the_figure_is_a_png_with_and_without_cosines(tmp_path: Path) -> None:
    blind = replayed([0, 1], [10, 20], [NAN, NAN])
    for number, one in enumerate((CLOSE, blind)):
        path = tmp_path / f"{number}.png"
        draw_freshness(path, report({"close": one, "first": one}, EXPIRES_MS, rng()), "title")
        assert path.read_bytes().startswith(b"\x89PNG")
