"""What the soak decides by: slopes, what may be open by the clock, and its verdict."""

from random import Random

import numpy as np
import pytest

from agents.shop.catalogue import catalogue
from benchmarks.memory_slope import slope_of
from benchmarks.soak import GROWTH_MIB_PER_HOUR, MINUTES, Sample, _broken, _slopes
from benchmarks.soak_traffic import (
    ACTIONS_PER_S,
    HIGH_VALUE_EVERY,
    NEW_USER_EVERY,
    SLATE_EVERY,
    Traffic,
)
from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.impressions import Impression
from streams.partitioner import partition_of
from streams.windows import WindowConfig

SECONDS = 400
NOW_MS = 1_790_000_000_000


def noisy(mib_per_hour: float) -> list[float]:
    rng = np.random.default_rng(1)
    swings = np.repeat(rng.normal(0, 0.5, SECONDS // 20), 20)  # an allocator's, 20 s each
    return list(100 + np.arange(SECONDS) * mib_per_hour / 3_600 + swings)


def test_growth_is_told_from_the_swings_of_an_allocator() -> None:
    flat, growing = slope_of(range(SECONDS), noisy(0)), slope_of(range(SECONDS), noisy(60))
    assert abs(flat.mib_per_hour) < 10
    assert abs(growing.mib_per_hour - 60) < 10
    assert flat.low < flat.mib_per_hour < flat.high < growing.low


def test_one_step_up_is_no_growth() -> None:
    mib = [100.0] * SECONDS
    mib[200:210] = [150.0] * 10
    assert slope_of(range(SECONDS), mib).mib_per_hour == 0


def test_too_short_a_run_has_no_slope() -> None:
    with pytest.raises(ValueError, match="run longer"):
        slope_of(range(30), [1.0] * 30)


def test_traffic_has_the_rate_and_the_shares_that_are_told() -> None:
    traffic = Traffic(catalogue(Random(0), 0), WindowConfig())
    records = [record for _, _, record in traffic.due(2.0, NOW_MS)]
    actions = [record for record in records if isinstance(record, UserAction)]
    slates = [record for record in records if isinstance(record, Impression)]
    assert len(actions) == 2 * ACTIONS_PER_S
    kinds = [action.action for action in actions]
    assert kinds.count(ActionType.CART) == len(actions) // HIGH_VALUE_EVERY
    assert len(slates) == len(actions) // SLATE_EVERY
    assert {slate.request_id for slate in slates} == {
        action.request_id for action in actions if action.request_id
    }


def test_the_router_knows_as_many_users_as_it_remembers_before_slopes_are_taken() -> None:
    full_s = (partition_of.cache_info().maxsize or 0) * NEW_USER_EVERY / ACTIONS_PER_S
    assert 0 < full_s < MINUTES * 60 / 3 - 30


def test_a_window_may_be_open_until_its_grace_and_the_lateness_are_over() -> None:
    windows = WindowConfig(window_ms=1_000, grace_ms=100, stagger=False)
    traffic = Traffic(catalogue(Random(0), 0), windows)
    sent = list(traffic.due(1 / ACTIONS_PER_S, NOW_MS))
    assert [topic for topic, _, _ in sent] == [topics.ACTIONS]
    end_ms = NOW_MS // 1_000 * 1_000 + 1_000
    assert traffic.open_windows(end_ms + 100 + 49, late_ms=50) == 1
    assert traffic.open_windows(end_ms + 100 + 50, late_ms=50) == 0


def soaked(growth: float = 0.0, open_windows: int = 5, alive_rows: int = 9) -> list[Sample]:
    levels = noisy(growth)
    return [
        Sample(
            at_s=float(second),
            rss_mib={"router": levels[second]},
            open_windows=open_windows,
            alive_rows=alive_rows,
            could_be_open=5,
            redis_mib=1.0,
            users=1,
        )
        for second in range(SECONDS)
    ]


def verdict(samples: list[Sample], left: int = 0) -> list[str]:
    return _broken(samples, _slopes(samples), {"open windows": left})


def test_a_flat_run_with_what_may_be_open_is_sound() -> None:
    assert verdict(soaked()) == []


def test_each_thing_that_grows_is_named() -> None:
    assert "router grows" in verdict(soaked(growth=3 * GROWTH_MIB_PER_HOUR))[0]
    assert "6 open windows" in verdict(soaked(open_windows=6))[0]
    assert "6 alive rows" in verdict(soaked(alive_rows=10))[0]
    assert "left after the end" in verdict(soaked(), left=1)[0]
