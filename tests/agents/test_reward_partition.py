"""The log is the timer: due by position or by clock at the end, the same events after a restart."""

from collections.abc import Sequence
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agents.attribution import Attribution, AttributionTable
from agents.reward_join import join
from agents.reward_partition import EARLY_MS, RewardPartition
from schemas.actions import ActionRecord, UserErased
from schemas.impressions import Impression
from schemas.rewards import RewardEvent
from tests.agents.test_reward_join import did, impression

WINDOW_MS = 60_000
SEARCH = Attribution(window_ms=15_000, mode="direct")
ATTRIBUTION = AttributionTable(Attribution(window_ms=WINDOW_MS), {"search": SEARCH})
T = 1_700_000_000_000


def partition() -> RewardPartition:
    return RewardPartition(ATTRIBUTION)


def test_a_head_is_not_due_before_the_log_has_passed_its_window() -> None:
    joining = partition()
    joining.add_impression(0, T, impression())
    joining.rewound(T - EARLY_MS)
    joining.add_action(T + WINDOW_MS, did("click", "a"))
    assert list(joining.due(0)) == []
    joining.add_action(T + WINDOW_MS + 1, did("order", "b"))
    (joined,) = joining.due(0)
    assert joined.event is not None
    assert [one.item_id for one in joined.event.outcomes] == ["a"]
    assert len(joining) == 0


def test_a_head_is_due_when_the_log_is_read_out_and_the_clock_has_passed() -> None:
    joining = partition()
    joining.add_impression(7, T, impression())
    joining.rewound(T - EARLY_MS)
    assert list(joining.due(T + WINDOW_MS)) == []
    (joined,) = joining.due(T + WINDOW_MS + 1)
    assert joined.offset == 7
    assert joined.event is not None
    assert joined.event.joined_until_ms == T + WINDOW_MS


def test_an_unreadable_action_moves_time_on_too() -> None:
    joining = partition()
    joining.add_impression(0, T, impression())
    joining.rewound(T - EARLY_MS)
    joining.pass_position(T + WINDOW_MS + 1)
    assert len(list(joining.due(0))) == 1


def test_the_first_head_asks_for_the_actions_since_its_time_and_later_ones_do_not() -> None:
    joining = partition()
    asked = [joining.rewind_ms]
    joining.add_impression(0, T, impression())
    asked.append(joining.rewind_ms)
    joining.rewound(T - EARLY_MS)
    asked.append(joining.rewind_ms)
    list(joining.due(T + WINDOW_MS + 1))
    joining.add_impression(1, T + 2 * WINDOW_MS, impression("r2"))
    asked.append(joining.rewind_ms)
    assert asked == [None, T - EARLY_MS, None, None]


def test_each_scenario_has_its_own_window_and_mode_and_the_order_stays() -> None:
    joining = partition()
    searched = msgspec.structs.replace(impression("r2"), scenario="search")
    joining.add_impression(0, T, impression("r1"))
    joining.add_impression(1, T + 5, searched)
    joining.rewound(T - EARLY_MS)
    joining.add_action(T + 15_005, did("click", "a", "r2"))
    joining.add_action(T + 15_005, did("click", "b", None))
    joining.add_action(T + 15_006, did("order", "a", "r2"))
    assert list(joining.due(0)) == []  # its window has passed, the one before it is open
    first, second = joining.due(T + WINDOW_MS + 1)
    assert first.event is not None
    assert second.event is not None
    assert {one.item_id for one in first.event.outcomes} == {"b"}
    assert [(one.item_id, one.action) for one in second.event.outcomes] == [("a", "click")]
    assert second.event.joined_until_ms == T + 5 + SEARCH.window_ms


def test_an_erased_user_gets_no_reward_event_and_the_others_do() -> None:
    joining = partition()
    joining.add_impression(0, T, impression())
    joining.add_impression(1, T, impression("r2", "u2"))
    joining.rewound(T - EARLY_MS)
    joining.add_action(T + 5, UserErased(event_id="e", user_id="u1", event_time_ms=T))
    first, second = joining.due(T + WINDOW_MS + 1)
    assert first.event is None
    assert second.event is not None


def test_memory_holds_no_more_than_the_open_windows() -> None:
    joining = partition()
    joining.rewound(0)
    for minute in range(100):
        joining.add_impression(minute, T + minute * 60_000, impression(f"r{minute}"))
        joining.add_action(T + minute * 60_000, did("click", "a", f"r{minute}"))
        list(joining.due(0))
    assert len(joining) <= 2
    assert len(joining._actions) <= 3
    assert len(joining._by_user) <= 1


Log = list[tuple[int, Impression | ActionRecord]]


def a_log(rng: Random, length: int) -> Log:
    """Returns impressions and actions with rising append times, as one partition holds them."""
    log: Log = []
    now = T
    for number in range(length):
        now += rng.choice((0, 1, 500, 20_000))
        user, request = rng.choice(("u1", "u2")), f"r{rng.randrange(length)}"
        draw = rng.random()
        if draw < 0.3:
            shown = impression(f"r{number}", user)
            scenario = rng.choice(("home", "search"))
            log.append((now, msgspec.structs.replace(shown, scenario=scenario)))
        elif draw < 0.33:
            log.append((now, UserErased(event_id=f"x{number}", user_id=user, event_time_ms=now)))
        else:
            kind, item = rng.choice(("click", "order", "expose", "share")), rng.choice("abcz")
            log.append((now, did(kind, item, rng.choice((request, None)))))
    return log


def offline(log: Log) -> dict[str, RewardEvent]:
    """Joins with the whole log at hand: the reference."""
    actions = [(at, one) for at, one in log if not isinstance(one, Impression)]
    events = {}
    for at, shown in log:
        if not isinstance(shown, Impression):
            continue
        mine = [(when, one) for when, one in actions if one.user_id == shown.user_id]
        window_ms, mode = (15_000, "direct") if shown.scenario == "search" else (WINDOW_MS, None)
        mine = [(when, one) for when, one in mine if at - EARLY_MS <= when <= at + window_ms]
        erased = [place for place, (_, one) in enumerate(mine) if isinstance(one, UserErased)]
        if any(mine[place][0] >= at for place in erased):
            continue
        mine = mine[erased[-1] + 1 if erased else 0 :]
        seen = [one for _, one in mine if not isinstance(one, UserErased)]
        if mode == "direct":
            seen = [one for one in seen if one.request_id == shown.request_id]
        events[shown.request_id] = join(shown, seen, at + window_ms)
    return events


def replay(log: Log, rng: Random, skip: int = 0) -> dict[str, RewardEvent]:
    """Feeds a partition in random portions from impression `skip` on, as two topics arrive."""
    shown = [(n, at, one) for n, (at, one) in enumerate(log) if isinstance(one, Impression)][skip:]
    actions: Sequence[tuple[int, ActionRecord]] = [
        (at, one) for at, one in log if not isinstance(one, Impression)
    ]
    joining, events, position = partition(), {}, 0
    for _ in range(10 * len(log) + 10):
        for _ in range(rng.randrange(3)):
            if shown:
                joining.add_impression(*shown.pop(0))
        if (since := joining.rewind_ms) is not None:
            position = next((i for i, (at, _) in enumerate(actions) if at >= since), len(actions))
            joining.rewound(since)
        if len(joining):
            portion = actions[position : position + rng.randrange(4)]
            for at, one in portion:
                joining.add_action(at, one)
            position += len(portion)
        read_out = log[-1][0] + 2 * WINDOW_MS if position >= len(actions) else 0
        for done in joining.due(read_out):
            if done.event is not None:
                events[done.event.request_id] = done.event
    return events


@given(seed=st.integers(0, 100_000), length=st.integers(1, 60))
def test_whatever_the_portions_the_events_are_those_of_an_offline_join(
    seed: int, length: int
) -> None:
    log = a_log(Random(seed), length)
    assert replay(log, Random(seed + 1)) == offline(log)


@given(seed=st.integers(0, 100_000), length=st.integers(2, 60), share=st.floats(0, 1))
def test_a_restart_at_any_committed_head_gives_the_same_events(
    seed: int, length: int, share: float
) -> None:
    log = a_log(Random(seed), length)
    shown = [one.request_id for _, one in log if isinstance(one, Impression)]
    skip = int(share * len(shown))
    remaining = set(shown[skip:])
    wanted = {request: one for request, one in offline(log).items() if request in remaining}
    assert replay(log, Random(seed + 1), skip) == wanted
