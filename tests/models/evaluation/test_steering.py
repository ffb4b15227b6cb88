"""The steering figures: shares, pairs and intervals."""

import numpy as np
import pytest

from models.evaluation.steering import (
    NothingToCompare,
    category_share,
    hit,
    paired_difference,
    shuffled,
)


def test_the_share_counts_items_of_the_wanted_category() -> None:
    category_of = {1: "A", 2: "B", 3: "A"}
    assert category_share([1, 2, 3, 9], "A", category_of) == 0.5
    assert category_share([], "A", category_of) == 0.0
    assert (hit([1, 2], 2), hit([1, 2], 3)) == (1.0, 0.0)


def test_a_constant_difference_has_an_interval_of_width_zero() -> None:
    found = paired_difference([0.5, 0.9], [0.2, 0.6], np.random.default_rng(0))
    assert found.mean == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3, 0.3))
    assert found.users == 2


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        one = rng.normal(0.1, 1.0, size=80)
        found = paired_difference(one.tolist(), [0.0] * 80, rng, draws=400)
        covered += found.low <= 0.1 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_nobody_keeps_the_own_instruction_and_everybody_gets_one() -> None:
    for count in (2, 3, 50):
        others = shuffled(count, np.random.default_rng(count))
        assert sorted(others) == list(range(count))
        assert all(other != own for own, other in enumerate(others))


def test_figures_that_do_not_pair_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(NothingToCompare, match="2 and 1 figures"):
        paired_difference([1.0, 2.0], [1.0], rng)
    with pytest.raises(NothingToCompare):
        shuffled(1, rng)
