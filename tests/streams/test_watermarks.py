"""A watermark only rises, follows the slower of two clocks, and a replay knows no wall clock."""

from hypothesis import given
from hypothesis import strategies as st

from streams.watermarks import SourceWatermark

TIMES = st.integers(0, 10_000)


def live() -> SourceWatermark:
    return SourceWatermark("live", live_lag_ms=2_000)


def test_nothing_is_known_before_the_first_record() -> None:
    assert live().watermark_ms is None


@given(st.lists(st.tuples(TIMES, TIMES)))
def test_it_is_the_largest_of_the_smaller_times(records: list[tuple[int, int]]) -> None:
    watermark = live()
    for event_time_ms, append_time_ms in records:
        watermark.observe(event_time_ms, append_time_ms)
    assert watermark.watermark_ms == max((min(pair) for pair in records), default=None)


def test_a_producer_whose_clock_runs_ahead_closes_no_windows() -> None:
    watermark = live()
    watermark.observe(event_time_ms=1_000_000, append_time_ms=5_000)
    assert watermark.watermark_ms == 5_000


def test_a_live_partition_read_to_its_end_follows_the_clock_two_seconds_behind() -> None:
    watermark = live()
    watermark.observe(5_000, 5_000)
    watermark.read_to_end(now_ms=10_000)
    assert watermark.watermark_ms == 8_000
    watermark.read_to_end(now_ms=9_000)  # a clock that was set back
    assert watermark.watermark_ms == 8_000


def test_a_replay_never_asks_the_wall_clock() -> None:
    watermark = SourceWatermark("event", live_lag_ms=2_000)
    watermark.observe(5_000, 900_000)
    watermark.read_to_end(now_ms=900_000)
    assert watermark.watermark_ms == 5_000
