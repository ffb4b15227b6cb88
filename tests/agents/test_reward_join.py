"""One impression and its outcomes: what counts, for which item, and what was examined."""

from hypothesis import given
from hypothesis import strategies as st

from agents.reward_join import join
from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of
from schemas.impressions import HistoryFeatures, Impression, SlateItem, Slot
from schemas.rewards import OUTCOMES, RewardEvent

SERVED_MS = 1_700_000_000_000
SLATE = ("a", "b", "c", "d", "e")


def impression(request_id: str = "r1", user_id: str = "u1") -> Impression:
    return Impression(
        request_id=request_id,
        user_id=user_id,
        scenario="home",
        served_ms=SERVED_MS,
        generation=1,
        policy_version=1,
        index_offset=0,
        history=HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[]),
        slate=[
            SlateItem(
                item_key=item_key_of(item_id),
                item_id=item_id,
                sid=[position],
                logprobs=[-1.0],
                score=-1.0,
                position=position,
                slot=Slot.TOP,
            )
            for position, item_id in enumerate(SLATE)
        ],
        beams=50,
    )


def did(
    kind: str, item_id: str, request_id: str | None = "r1", after_ms: int = 1_000
) -> UserAction:
    return UserAction(
        event_id=f"{kind}-{item_id}-{request_id}-{after_ms}",
        user_id="u1",
        action=ActionType(kind),
        event_time_ms=SERVED_MS + after_ms,
        item_id=item_id,
        request_id=request_id,
    )


def joined(*actions: UserAction) -> RewardEvent:
    return join(impression(), actions, SERVED_MS + 60_000)


def outcomes(event: RewardEvent) -> dict[str, tuple[float, bool]]:
    return {one.item_id: (one.outcome, one.inferred) for one in event.outcomes}


def test_the_largest_outcome_of_an_item_counts_whatever_the_order() -> None:
    for actions in (
        (did("click", "a"), did("order", "a"), did("dislike", "a")),
        (did("dislike", "a"), did("order", "a"), did("click", "a")),
    ):
        assert outcomes(joined(*actions)) == {"a": (1.0, False)}


def test_a_dislike_alone_is_a_negative_outcome() -> None:
    assert outcomes(joined(did("dislike", "b"))) == {"b": (-0.5, False)}


def test_an_action_without_request_id_joins_by_item_and_is_marked_inferred() -> None:
    assert outcomes(joined(did("cart", "c", None))) == {"c": (0.7, True)}


def test_an_inferred_action_from_before_the_slate_does_not_join() -> None:
    event = joined(did("cart", "c", None, after_ms=-1), did("order", "z", None, after_ms=-1))
    assert event.outcomes == []
    assert event.outside == []


def test_an_action_on_another_request_belongs_to_that_one_for_an_item_of_both_slates() -> None:
    assert joined(did("order", "a", "r2")).outcomes == []


def test_what_was_chosen_beside_the_slate_is_outside_and_only_that() -> None:
    event = joined(did("order", "z", "r2"), did("click", "y", None), did("dislike", "x", None))
    assert {one.item_id: one.outcome for one in event.outside} == {"z": 1.0, "y": 0.4}


def test_exposed_positions_are_examined_and_those_acted_on() -> None:
    event = joined(did("expose", "a"), did("expose", "b"), did("click", "d"))
    assert event.examined == [0, 1, 3]


def test_an_expose_of_another_request_examines_nothing() -> None:
    assert joined(did("expose", "a", "r2"), did("expose", "b", None)).examined is None


def test_without_expose_the_positions_up_to_one_below_the_last_click_are_examined() -> None:
    assert joined(did("click", "c"), did("click", "a")).examined == [0, 1, 2, 3]
    assert joined(did("click", "e")).examined == [0, 1, 2, 3, 4]


def test_without_expose_and_click_nothing_tells_what_was_examined() -> None:
    assert joined(did("dislike", "b"), did("view", "c")).examined is None


def test_views_and_shares_are_no_outcomes() -> None:
    assert joined(did("view", "a"), did("share", "a")).outcomes == []


ACTIONS = st.lists(
    st.builds(
        did,
        st.sampled_from([kind.value for kind in ActionType if kind is not ActionType.SEARCH]),
        st.sampled_from([*SLATE, "x", "y"]),
        st.sampled_from(["r1", "r2", None]),
        st.sampled_from([-5, 5]),
    ),
    max_size=12,
)


@given(actions=ACTIONS, seed=st.randoms(use_true_random=False))
def test_order_and_repeats_change_nothing(actions: list[UserAction], seed: object) -> None:
    again = [*actions, *actions]
    seed.shuffle(again)  # type: ignore[attr-defined]
    first, second = joined(*actions), joined(*again)
    assert first.outcomes == second.outcomes
    assert first.examined == second.examined
    assert {o.item_id: o.outcome for o in first.outside} == {
        o.item_id: o.outcome for o in second.outside
    }


@given(actions=ACTIONS)
def test_every_outcome_is_the_maximum_over_the_actions_that_join(
    actions: list[UserAction],
) -> None:
    event = joined(*actions)
    for item_id in (*SLATE, "x", "y"):
        on_slate = item_id in SLATE
        values = [
            OUTCOMES[action.action]
            for action in actions
            if action.item_id == item_id
            and action.action in OUTCOMES
            and (
                action.request_id == "r1"
                or (action.event_time_ms > SERVED_MS and (not on_slate or not action.request_id))
            )
        ]
        found = event.outcomes if on_slate else event.outside
        wanted = [max(values)] if values and (on_slate or max(values) > 0) else []
        assert [one.outcome for one in found if one.item_id == item_id] == wanted
