"""The router's decisions: what a batch of `actions` asks for."""

from dataclasses import replace

import msgspec
import pytest

from agents.high_value import HighValuePolicy
from agents.routing import Arrived, RememberedEvents, Routing
from agents.settings import RouterConfig
from schemas.actions import ActionType, UserAction, UserErased
from schemas.codec import encode
from schemas.dead_letters import Reason
from streams.cloud_events import Headers
from streams.partitioner import partition_of
from streams.watermarks import Clock

NOW_MS = 1_767_225_600_000
PARTITIONS = 4
CONFIG = RouterConfig(clock="event")
SCENARIOS = frozenset({"home"})


def user_of(partition: int) -> str:
    """A user whose key lies in this partition."""
    users = (f"user-{number}" for number in range(1_000))
    return next(u for u in users if partition_of(u.encode(), PARTITIONS) == partition)


def action(
    user: str, event: str, kind: ActionType = ActionType.CLICK, event_time_ms: int = NOW_MS
) -> UserAction:
    return UserAction(
        event_id=event,
        user_id=user,
        action=kind,
        item_id="i",
        query="umbrella" if kind is ActionType.SEARCH else None,
        event_time_ms=event_time_ms,
    )


def arrived(
    record: UserAction | UserErased | bytes,
    offset: int = 0,
    partition: int | None = None,
    headers: Headers = (),
) -> Arrived:
    value = record if isinstance(record, bytes) else encode(record)
    key = b"" if isinstance(record, bytes) else record.user_id.encode()
    where = partition_of(key, PARTITIONS) if partition is None else partition
    return Arrived(where, offset, NOW_MS, key, value, headers)


@pytest.fixture
def routing() -> Routing:
    made = Routing(CONFIG, SCENARIOS, PARTITIONS)
    made.assign(range(PARTITIONS))
    return made


def test_every_usable_action_reaches_history_and_high_value_ones_go_on(routing: Routing) -> None:
    kinds = list(ActionType)
    records = [action("ann", str(n), kind) for n, kind in enumerate(kinds)]
    batch = routing.route([arrived(r, n) for n, r in enumerate(records)], NOW_MS)
    assert batch.history == records
    chosen = [one.record for one in batch.candidates]
    assert chosen == [record for record in records if record.action in CONFIG.high_value]
    assert not batch.counted
    assert batch.positions == {partition_of(b"ann", PARTITIONS): len(kinds)}


def test_each_scenario_has_its_own_policy_and_a_click_waits_for_its_count() -> None:
    config = replace(
        CONFIG,
        by_scenario={"detail": HighValuePolicy(actions=(ActionType.ORDER,), clicks=3)},
    )
    routing = Routing(config, SCENARIOS | {"detail"}, PARTITIONS)
    routing.assign(range(PARTITIONS))
    kinds = [ActionType.CLICK, ActionType.CART, ActionType.ORDER]
    records = [
        msgspec.structs.replace(action("ann", f"{scenario}-{kind}", kind), scenario=scenario)
        for scenario in ("home", "detail")
        for kind in kinds
    ]
    batch = routing.route([arrived(r, n) for n, r in enumerate(records)], NOW_MS)
    assert [(one.record.event_id, one.needs) for one in batch.candidates] == [
        ("home-cart", 0),
        ("home-order", 0),
        ("detail-click", 3),
        ("detail-order", 0),
    ]
    assert [batch.history[place] for place in batch.counted] == [records[3]]


def test_a_header_that_contradicts_the_body_is_counted_and_the_body_counts(
    routing: Routing,
) -> None:
    record = action("ann", "body")
    batch = routing.route(
        [
            arrived(record, 0, headers=[("ce_id", b"header")]),
            arrived(action("ann", "same"), 1, headers=[("ce_id", b"same")]),
            arrived(action("ann", "none"), 2),
        ],
        NOW_MS,
    )
    assert batch.contradictions == 1
    assert [one.event_id for one in batch.history if isinstance(one, UserAction)] == [
        *("body", "same", "none")
    ]
    assert not batch.dead


def test_a_misrouted_record_keeps_its_headers_and_is_judged_where_it_belongs(
    routing: Routing,
) -> None:
    wrong = (partition_of(b"ann", PARTITIONS) + 1) % PARTITIONS
    batch = routing.route([arrived(action("ann", "e"), 0, wrong, [("ce_id", b"other")])], NOW_MS)
    [(_, source)] = batch.misrouted
    assert source.headers == [("ce_id", b"other")]
    assert batch.contradictions == 0


def test_poison_is_refused_with_a_reason_and_the_good_beside_it_pass(routing: Routing) -> None:
    user = user_of(0)
    batch = routing.route(
        [
            arrived(b'{"schema":', 0, partition=0),
            arrived(action(user, "1"), 1),
            arrived(action(user, "2", event_time_ms=NOW_MS + 60_001), 2),
            arrived(action(user, "3", event_time_ms=5), 3),
        ],
        NOW_MS,
    )
    assert [r.event_id for r in batch.history] == ["1"]
    assert [why.reason for _, why in batch.dead] == [
        Reason.MALFORMED_JSON,
        Reason.FROM_FUTURE,
        Reason.ABSURD_TIME,
    ]
    assert batch.positions == {0: 4}


def test_a_misrouted_action_is_only_sent_to_its_partition(routing: Routing) -> None:
    user = user_of(1)
    batch = routing.route([arrived(action(user, "1", ActionType.ORDER), partition=2)], NOW_MS)
    assert [u for u, _ in batch.misrouted] == [user]
    assert not batch.history
    assert not batch.candidates
    assert routing.news() == {}


def test_a_repeat_is_counted_only_after_the_effects_of_the_first_are_done(
    routing: Routing,
) -> None:
    first = routing.route([arrived(action("ann", "1")), arrived(action("ann", "1"), 1)], NOW_MS)
    assert (len(first.history), first.duplicates) == (1, 1)
    failed = routing.route([arrived(action("ann", "1"))], NOW_MS)  # the batch was never done
    assert failed.duplicates == 0
    routing.done(failed)
    assert routing.route([arrived(action("ann", "1"), 2)], NOW_MS).duplicates == 1


def test_two_users_may_use_the_same_event_id(routing: Routing) -> None:
    batch = routing.route([arrived(action(u, "1")) for u in ("ann", "bob", "cid")], NOW_MS)
    assert len(batch.history) == 3
    assert batch.duplicates == 0


def test_an_erasure_travels_in_order_and_is_never_a_duplicate(routing: Routing) -> None:
    erased = UserErased(event_id="1", user_id="ann", event_time_ms=NOW_MS)
    records: list[UserAction | UserErased] = [action("ann", "1"), erased, action("ann", "2")]
    batch = routing.route([arrived(r, n) for n, r in enumerate(records)], NOW_MS)
    assert batch.history == records
    assert [(one.record, one.needs) for one in batch.candidates] == [(erased, 0)]


def test_watermarks_follow_their_own_partition_and_are_news_once(routing: Routing) -> None:
    one, two = user_of(1), user_of(2)
    routing.route(
        [
            arrived(action(one, "1", event_time_ms=NOW_MS - 500)),
            arrived(action(two, "2", event_time_ms=NOW_MS + 900)),
        ],
        NOW_MS,
    )
    risen = routing.news()
    assert risen == {1: NOW_MS - 500, 2: NOW_MS}  # never ahead of the broker's clock
    routing.announced(risen)
    assert routing.news() == {}


def test_the_wall_clock_speaks_for_a_silent_partition_only_when_live() -> None:
    marks: dict[Clock, dict[int, int]] = {"live": {0: NOW_MS - CONFIG.live_lag_ms}, "event": {}}
    for clock, expected in marks.items():
        routing = Routing(replace(CONFIG, clock=clock), SCENARIOS, PARTITIONS)
        routing.assign([0])
        routing.read_to_end(0, NOW_MS)
        assert routing.news() == expected


def test_a_lost_partition_takes_its_watermark_with_it(routing: Routing) -> None:
    routing.route([arrived(action(user_of(1), "1"))], NOW_MS)
    routing.assign([0])
    assert routing.news() == {}


def test_the_oldest_events_are_forgotten_first() -> None:
    remembered = RememberedEvents(2)
    remembered.add(["a", "b", "c"])
    assert [event in remembered for event in "abc"] == [False, True, True]


@pytest.mark.parametrize("event_time_ms", [-1, 2**53, 2**64])
def test_an_erasure_at_an_absurd_time_is_a_dead_letter(
    routing: Routing, event_time_ms: int
) -> None:
    """Redis' numbers are doubles: such a time would be another one there, or none."""
    erased = UserErased(event_id="e", user_id="ann", event_time_ms=event_time_ms)
    batch = routing.route([arrived(erased), arrived(action("ann", "a"), 1)], NOW_MS)
    assert [why.reason for _, why in batch.dead] == [Reason.ABSURD_TIME]
    assert [record.event_id for record in batch.history] == ["a"]
    assert [one.record.event_id for one in batch.candidates] == []
