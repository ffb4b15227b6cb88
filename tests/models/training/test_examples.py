"""Training rows are what serving would have seen: nothing later, once a choice."""

from collections.abc import Sequence
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.features import build_history
from models.reasoning.local_reasoner import LocalReasoner
from models.training.examples import NO_TEXT, ExampleBuilder, ExampleConfig, Examples
from models.training.instructions import (
    InstructionReplay,
    ServedWindows,
    behaviour_of,
    item_rows,
)
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert, item_key_of
from streams.windows import WindowConfig, window_start_ms

START_MS = 1_783_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
ITEMS = [ItemUpsert(item_id=f"i{n}", title=f"Thing {n}", category=f"A > C{n}") for n in range(6)]
HIGH_VALUE = frozenset({ActionType.ORDER, ActionType.CART, ActionType.FAVORITE, ActionType.SEARCH})
WINDOWS = WindowConfig(window_ms=5 * MINUTE_MS, grace_ms=10_000, stagger=False)


def replay() -> InstructionReplay:
    return InstructionReplay(
        reasoner=LocalReasoner(),
        windows=ServedWindows(
            start_of=partial(_start_of, WINDOWS),
            window_ms=WINDOWS.window_ms,
            grace_ms=WINDOWS.grace_ms,
            high_value_of=lambda actions: [a for a in actions if a.action in HIGH_VALUE],
        ),
        items=item_rows(ITEMS),
        profiles={},
    )


def _start_of(config: WindowConfig, user_id: str, at_ms: int) -> int:
    return window_start_ms(user_id, at_ms, config)


def build(actions: Sequence[UserAction]) -> Examples:
    return ExampleBuilder(replay(), ExampleConfig(), Random(0)).build(actions)


def act(kind: ActionType, at_ms: int, what: str, scenario: str = "home") -> UserAction:
    words = kind is ActionType.SEARCH
    return UserAction(
        event_id=f"{kind}-{what}-{at_ms}",
        user_id="user",
        action=kind,
        event_time_ms=START_MS + at_ms,
        scenario=scenario,
        item_id=None if words else what,
        query=what if words else None,
    )


def text_of(examples: Examples, number: int) -> str | None:
    text = examples.rows[number].text
    return None if text == NO_TEXT else examples.texts[text]


def test_a_search_speaks_only_once_its_window_has_closed() -> None:
    first_window = WINDOWS.window_ms - START_MS % WINDOWS.window_ms
    closed = first_window + WINDOWS.grace_ms
    examples = build(
        [
            act(ActionType.SEARCH, 0, "brolly"),
            act(ActionType.CLICK, closed - 1, "i0"),
            act(ActionType.CLICK, closed, "i1"),
        ]
    )
    assert text_of(examples, 0) is None
    assert 'searches "brolly"' in str(text_of(examples, 1))


def test_a_stale_instruction_is_not_used() -> None:
    actions = [
        act(ActionType.CART, 0, "i0"),
        act(ActionType.CLICK, 35 * HOUR_MS, "i1"),
        act(ActionType.CLICK, 37 * HOUR_MS, "i2"),
    ]
    examples = build(actions)
    assert "Thing 0" in str(text_of(examples, 1))
    assert text_of(examples, 2) is None


def test_search_rows_carry_the_query_itself() -> None:
    examples = build(
        [act(ActionType.SEARCH, 0, "brolly"), act(ActionType.CLICK, 2_000, "i0", "search")]
    )
    assert text_of(examples, 0) == "brolly"


def test_an_older_instruction_is_one_to_24_hours_old() -> None:
    actions = [act(ActionType.SEARCH, hours * HOUR_MS, f"words {hours}") for hours in range(30)]
    examples = build([*actions, act(ActionType.CLICK, 30 * HOUR_MS, "i0")])
    older = examples.texts[examples.rows[0].older_text]
    assert any(f'"words {hours}"' in older for hours in range(5, 29))
    assert '"words 29"' in str(text_of(examples, 0))


def test_a_choice_is_one_row_weighted_by_its_strongest_action_in_time() -> None:
    examples = build(
        [
            act(ActionType.CLICK, 0, "i0"),
            act(ActionType.CART, 1, "i0"),
            act(ActionType.ORDER, 2, "i0"),
            act(ActionType.CLICK, MINUTE_MS, "i1"),
            act(ActionType.ORDER, 3 * HOUR_MS, "i1"),
            act(ActionType.DISLIKE, 4 * HOUR_MS, "i2"),
            act(ActionType.EXPOSE, 5 * HOUR_MS, "i3"),
        ]
    )
    keys = [item_key_of(item_id) for item_id in ("i0", "i1", "i1")]
    assert [row.target_key for row in examples.rows] == keys
    assert [row.weight for row in examples.rows] == [2.0, 1.2, 2.0]


def test_a_detail_row_has_the_last_item_as_its_trigger() -> None:
    examples = build(
        [act(ActionType.CLICK, 0, "i0"), act(ActionType.CLICK, MINUTE_MS, "i1", "detail")]
    )
    assert [row.trigger_key for row in examples.rows] == [None, item_key_of("i0")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(ActionType)),
            st.integers(min_value=0, max_value=3 * HOUR_MS),
            st.integers(min_value=0, max_value=5),
        ),
        max_size=40,
        unique_by=lambda drawn: drawn[1],
    )
)
def test_a_row_never_sees_its_target_or_anything_later(
    drawn: list[tuple[ActionType, int, int]],
) -> None:
    actions = sorted(
        (act(kind, at_ms, f"i{item}") for kind, at_ms, item in drawn),
        key=lambda action: action.event_time_ms,
    )
    for row in build(actions).rows:
        before = [behaviour_of(a) for a in actions if a.event_time_ms < row.at_ms]
        assert row.history == build_history(before, row.at_ms, ExampleConfig().recent)
        cut = [a for a in actions if a.event_time_ms < row.at_ms]
        alone = build([*cut, next(a for a in actions if a.event_time_ms == row.at_ms)])
        assert alone.rows[-1].history == row.history


@given(st.integers(min_value=0, max_value=10_000_000))
def test_the_future_changes_no_instruction_of_the_past(at_ms: int) -> None:
    past = [act(ActionType.SEARCH, 0, "brolly"), act(ActionType.CART, 400_000, "i1")]
    later = act(ActionType.ORDER, at_ms, "i2")
    known = replay().instructions_of("user", past)
    longer = replay().instructions_of("user", sorted([*past, later], key=lambda a: a.event_time_ms))
    closed = [i for i in known if i.as_of_ms <= later.event_time_ms]
    assert longer[: len(closed)] == closed


def test_no_actions_no_rows() -> None:
    assert build([]).rows == []


@pytest.mark.parametrize("missing", ["cart", "order"])
def test_a_window_without_a_high_value_action_triggers_nothing(missing: str) -> None:
    assert replay().instructions_of("user", [act(ActionType.CLICK, 0, missing)]) == []
