"""The one feature function of serving and training."""

from math import floor, log2

from hypothesis import given
from hypothesis import strategies as st

from models.features import GAP_BUCKETS, build_history, gap_bucket
from schemas.actions import ActionType
from schemas.behaviour import Behaviour

NOW_MS = 1_750_000_000_000


def action(
    number: int, kind: ActionType = ActionType.CLICK, item_key: int | None = None
) -> Behaviour:
    key = 100 + number if item_key is None else item_key
    return Behaviour(
        event_id=f"e{number}",
        action=kind,
        event_time_ms=NOW_MS - (100 - number) * 1_000,
        item_key=None if kind is ActionType.SEARCH else key,
    )


def test_the_newest_actions_on_items_stand_oldest_first() -> None:
    found = build_history([action(n) for n in range(10)], NOW_MS, 3)
    assert found.item_keys == [107, 108, 109]
    assert found.action_codes == [2, 2, 2]
    assert found.gap_buckets == [6, 6, 6]


def test_searches_and_exposures_are_no_history_and_take_no_place() -> None:
    shown = [action(n, ActionType.EXPOSE) for n in range(3, 9)]
    behaviour = [action(0), action(1, ActionType.SEARCH), action(2, ActionType.ORDER), *shown]
    found = build_history(behaviour, NOW_MS, 2)
    assert found.item_keys == [100, 102]
    assert found.action_codes == [2, 5]


def test_the_order_of_arrival_changes_nothing() -> None:
    behaviour = [action(n) for n in range(8)]
    assert build_history(behaviour[::-1], NOW_MS, 5) == build_history(behaviour, NOW_MS, 5)


def test_nothing_gives_empty_lists() -> None:
    for found in (build_history([], NOW_MS, 20), build_history([action(1)], NOW_MS, 0)):
        assert (found.item_keys, found.action_codes, found.gap_buckets) == ([], [], [])


@given(st.integers(0, 10**12))
def test_a_gap_bucket_is_the_floor_of_log2_of_one_plus_seconds(gap_ms: int) -> None:
    assert gap_bucket(gap_ms) == min(GAP_BUCKETS - 1, floor(log2(1 + gap_ms // 1_000)))


def test_a_clock_ahead_of_ours_is_no_gap_and_ages_end_in_the_last_bucket() -> None:
    assert gap_bucket(-5_000) == 0
    assert gap_bucket(10**16) == GAP_BUCKETS - 1
