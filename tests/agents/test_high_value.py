"""Which actions are high-value: by scenario, and a click by how many came before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.high_value import Candidate, HighValuePolicy, HighValueTable, chosen
from schemas.actions import ActionType, UserAction

TABLE = HighValueTable(
    HighValuePolicy(), {"detail": HighValuePolicy(actions=(ActionType.ORDER,), clicks=3)}
)


def action(kind: ActionType, scenario: str = "home", item_id: str | None = "i") -> UserAction:
    return UserAction(
        event_id="e",
        user_id="ann",
        action=kind,
        event_time_ms=1,
        scenario=scenario,
        item_id=item_id,
    )


@pytest.mark.parametrize("kind", list(ActionType))
def test_the_default_names_order_cart_favorite_search_and_dislike(kind: ActionType) -> None:
    wanted = 0 if kind in {"order", "cart", "favorite", "search", "dislike"} else None
    assert TABLE.clicks_needed(action(kind)) == wanted


@pytest.mark.parametrize(
    ("acted", "needed"),
    [
        (action(ActionType.ORDER, "detail"), 0),
        (action(ActionType.CART, "detail"), None),
        (action(ActionType.CLICK, "detail"), 3),
        (action(ActionType.VIEW, "detail"), None),
        (action(ActionType.CLICK, "detail", item_id=None), None),
        (action(ActionType.CLICK, "search"), None),
    ],
)
def test_a_named_scenario_has_its_own_policy_alone(acted: UserAction, needed: int | None) -> None:
    assert TABLE.clicks_needed(acted) == needed


def test_a_click_is_high_value_from_its_count_on_and_the_order_stays() -> None:
    candidates = [
        Candidate(partition=1, record=action(ActionType.CLICK), place=place, needs=needs)
        for place, needs in enumerate([3, 0, 3, 3])
    ]
    kept = chosen(candidates, {0: 2, 2: 3, 3: 4})
    assert [one.place for one in kept] == [1, 2, 3]
    assert [one.place for one in chosen(candidates, {})] == [1]


KINDS = [ActionType.CLICK, ActionType.CLICK, ActionType.ORDER, ActionType.VIEW]


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(["i", "j", None])), max_size=30),
    st.integers(1, 8),
)
def test_the_high_value_actions_of_a_past_are_those_that_history_would_have_counted(
    past: list[tuple[ActionType, str | None]], kept: int
) -> None:
    actions = [action(kind, "detail", item_id) for kind, item_id in past]
    wanted = []
    for number, one in enumerate(actions):
        history = actions[max(0, number + 1 - kept) : number + 1]
        clicks = sum(a.action is ActionType.CLICK and a.item_id == one.item_id for a in history)
        clicked = one.action is ActionType.CLICK and one.item_id is not None and clicks >= 3
        wanted.append(one.action is ActionType.ORDER or clicked)
    found = TABLE.high_value_of(actions, kept)
    assert [id(one) for one in found] == [
        id(one) for one, high in zip(actions, wanted, strict=True) if high
    ]
