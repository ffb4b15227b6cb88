"""The newest trigger of a user is worked on, triggers before refreshes, and nothing gets lost."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.trigger_queue import Queued, TriggerQueue
from schemas import topics
from schemas.instructions import InstructionTrigger
from streams.dead_letters import Source


def queued(user: str, end_ms: int, offset: int = 0, *, refresh: bool = False) -> Queued:
    topic = topics.INSTRUCTION_REFRESHES if refresh else topics.INSTRUCTION_TRIGGERS
    return Queued(
        trigger=InstructionTrigger(
            trigger_id=f"{user}:{end_ms - 1}",
            user_id=user,
            window_start_ms=end_ms - 1,
            window_end_ms=end_ms,
            actions=[],
        ),
        source=Source(topic=topic, partition=0, offset=offset, key=None, value=None),
        refresh=refresh,
    )


def test_a_newer_trigger_takes_the_place_of_the_one_that_waits() -> None:
    queue = TriggerQueue(1)
    first, other, newer = queued("ann", 1), queued("bob", 1), queued("ann", 2)
    assert [queue.offer(one) for one in (first, other, newer)] == [None, None, first]
    assert [queue.take(), queue.take(), queue.take()] == [newer, other, None]


def test_an_older_one_or_a_repeat_is_itself_superseded() -> None:
    queue = TriggerQueue(1)
    waiting, older, again = queued("ann", 2, 7), queued("ann", 1, 8), queued("ann", 2, 9)
    assert [queue.offer(one) for one in (waiting, older, again)] == [None, older, again]
    assert queue.take() is waiting


def test_what_is_in_hand_is_not_superseded_and_its_user_waits() -> None:
    queue = TriggerQueue(1)
    first, newer = queued("ann", 1), queued("ann", 2)
    queue.offer(first)
    assert queue.take() is first
    assert queue.offer(newer) is None
    assert queue.take() is None
    queue.done(first)
    assert queue.take() is newer


def test_a_trigger_outranks_a_refresh_however_old_it_is() -> None:
    queue = TriggerQueue(1)
    refresh, trigger = queued("ann", 9, refresh=True), queued("ann", 1)
    assert [queue.offer(refresh), queue.offer(trigger)] == [None, refresh]
    assert queue.offer(refresh) is refresh
    assert (queue.triggers, queue.refreshes) == (1, 0)
    assert queue.take() is trigger


def test_refreshes_leave_places_for_triggers_and_hold_none_back() -> None:
    queue = TriggerQueue(2)
    refreshes = [queued(f"user-{n}", 1, refresh=True) for n in range(5)]
    for one in refreshes:
        queue.offer(one)
    assert [queue.take() for _ in range(3)] == [*refreshes[:2], None]
    late = queued("user-0", 1)
    queue.offer(late)
    assert queue.take() is late  # though a refresh of the same user is in hand
    queue.done(refreshes[0])
    assert queue.take() is refreshes[2]


def test_what_waits_of_a_lost_partition_is_forgotten() -> None:
    queue = TriggerQueue(1)
    queue.offer(queued("ann", 1))
    queue.offer(kept := queued("bob", 1, refresh=True))
    queue.drop({(topics.INSTRUCTION_TRIGGERS, 0)})
    assert queue.take() is kept
    assert queue.take() is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans()),
        st.just("take"),
        st.just("done"),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(STEPS)
def test_each_record_is_taken_or_superseded_by_a_better_one_exactly_once(
    steps: list[tuple[str, int, bool] | str],
) -> None:
    queue = TriggerQueue(1)
    waiting: dict[str, Queued] = {}  # the reference: the best since the user's last turn
    offered, ended, in_hand = 0, Counter[int](), list[Queued]()
    drain = ["take", "done"] * 8
    for step in [*steps, *drain]:
        if step == "take":
            taken = queue.take()
            if taken is not None:
                user = taken.trigger.user_id
                assert waiting.pop(user) is taken
                assert (user, taken.refresh) not in {
                    (one.trigger.user_id, one.refresh) for one in in_hand
                }
                in_hand.append(taken)
                ended[taken.source.offset] += 1
        elif isinstance(step, tuple):
            user, end_ms, refresh = step
            arrived = queued(user, end_ms, offered, refresh=refresh)
            offered += 1
            best = waiting.get(user)
            better = best is None or arrived.rank > best.rank
            superseded = queue.offer(arrived)
            waiting[user] = arrived if better or best is None else best
            assert superseded is (best if better else arrived)
            if superseded is not None:
                ended[superseded.source.offset] += 1
        elif in_hand:
            queue.done(in_hand.pop(0))
        assert queue.triggers + queue.refreshes == len(waiting)
        assert queue.in_hand == len(in_hand)
    assert ended == Counter(range(offered))
