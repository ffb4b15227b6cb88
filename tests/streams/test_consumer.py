"""Offsets are committed in order, and a topic with one writer has one."""

from types import SimpleNamespace

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from streams.consumer import OffsetTracker, SoleAssignor

PLACE = TopicPartition("instruction-triggers", 0)


@given(st.permutations(range(10, 22)), st.integers(0, 12))
def test_a_position_never_passes_a_record_in_hand(order: list[int], finished: int) -> None:
    tracker = OffsetTracker()
    for offset in range(10, 22):
        tracker.begin(PLACE, offset)
    for offset in order[:finished]:
        tracker.finish(PLACE, offset)
    in_hand = set(order[finished:])
    expected = min(in_hand, default=22)
    positions = tracker.take_positions()
    assert positions == ({PLACE: expected} if expected > 10 else {})
    assert tracker.take_positions() == {}


def test_gaps_of_a_compacted_log_do_not_hold_a_position() -> None:
    tracker = OffsetTracker()
    for offset in (3, 9):
        tracker.begin(PLACE, offset)
    tracker.finish(PLACE, 9)
    assert tracker.take_positions() == {}
    tracker.finish(PLACE, 3)
    assert tracker.take_positions() == {PLACE: 10}


def test_what_finishes_after_its_partition_was_lost_is_not_committed() -> None:
    tracker = OffsetTracker()
    tracker.begin(PLACE, 5)
    tracker.drop([PLACE])
    tracker.finish(PLACE, 5)
    assert tracker.take_positions() == {}


def test_the_sole_assignor_gives_every_partition_to_one_member() -> None:
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: {0, 1, 2})
    members = {name: SimpleNamespace(subscription=["catalog"]) for name in ("b", "a", "c")}
    assignment = SoleAssignor.assign(cluster, members)
    assert assignment["a"].assignment == [("catalog", [0, 1, 2])]
    assert [assignment[name].assignment for name in ("b", "c")] == [[], []]
