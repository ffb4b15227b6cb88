"""Which semantic IDs of a request become members, and with which reward."""

from collections.abc import Mapping, Sequence

import pytest

from models.policy.groups import DropReason, Group, Origin, Sid, form_group
from schemas.actions import ActionType
from schemas.impressions import Impression
from tests.models.policy.reward_events import impression, reward_event, slate_item

A, B, C, D = (0, 0, 0), (0, 0, 1), (0, 1, 0), (2, 2, 2)
SLATE = [slate_item(key, sid, key) for key, sid in enumerate((A, B, C, D))]
CATALOG: dict[int, Sid] = {10: (5, 0, 0), 11: (5, 0, 1), 12: (5, 0, 2), 13: (5, 0, 3), 14: A}


def formed(
    shown: Impression,
    *,
    chosen: Mapping[int, ActionType] | None = None,
    outside: Mapping[int, ActionType] | None = None,
    examined: Sequence[int] | None = (0, 1, 2),
    max_experts: int = 4,
) -> Group:
    event = reward_event(shown, chosen=chosen, outside=outside, examined=examined)
    group = form_group(event, generation=1, sid_of=CATALOG.get, max_experts=max_experts)
    assert isinstance(group, Group)
    return group


def rewards(group: Group) -> dict[Sid, float]:
    return {member.sid: member.reward for member in group.members}


def test_unexamined_slate_items_are_not_members() -> None:
    group = formed(impression(SLATE), chosen={1: ActionType.CLICK})
    assert rewards(group) == {A: 0.0, B: 0.4, C: 0.0}
    assert group.target_reward == 0.4


def test_a_semantic_id_is_one_member_with_the_largest_outcome_of_its_items() -> None:
    slate = [slate_item(0, A, 0), slate_item(1, B, 1), slate_item(2, A, 2)]
    group = formed(impression(slate), chosen={0: ActionType.CLICK, 2: ActionType.ORDER})
    assert rewards(group) == {A: 1.0, B: 0.0}


def test_a_dislike_of_the_only_examined_item_is_a_negative_reward() -> None:
    slate = [slate_item(0, A, 0), slate_item(1, B, 1), slate_item(2, A, 7)]
    group = formed(impression(slate), chosen={0: ActionType.DISLIKE}, examined=(0, 1))
    assert rewards(group) == {A: -0.5, B: 0.0}
    assert group.target_reward is None


def test_experts_are_the_best_outcomes_outside_the_slate() -> None:
    outside = {
        10: ActionType.CLICK,
        11: ActionType.ORDER,
        12: ActionType.CART,
        13: ActionType.DISLIKE,
        99: ActionType.ORDER,  # younger than the index
    }
    group = formed(impression(SLATE), outside=outside, max_experts=2)
    experts = [member for member in group.members if member.origin is Origin.EXPERT]
    assert [(expert.sid, expert.reward) for expert in experts] == [
        ((5, 0, 1), 1.0),
        ((5, 0, 2), 0.7),
    ]
    assert all(expert.old_logprobs is None for expert in experts)
    assert group.target_reward == 1.0


def test_a_dislike_outside_the_slate_is_no_expert() -> None:
    group = formed(impression(SLATE), outside={13: ActionType.DISLIKE, 10: ActionType.CLICK})
    assert (5, 0, 3) not in rewards(group)
    assert rewards(group)[5, 0, 0] == 0.4


def test_an_item_chosen_outside_raises_the_member_that_shares_its_semantic_id() -> None:
    group = formed(impression(SLATE), outside={14: ActionType.CART})
    assert rewards(group) == {A: 0.7, B: 0.0, C: 0.0}


def test_observed_members_keep_the_logged_logprobs() -> None:
    slate = [slate_item(0, A, 0, (-0.5, -1.5, -2.5)), slate_item(1, B, 1)]
    group = formed(impression(slate), examined=(0,))
    assert group.members[0].old_logprobs == (-0.5, -1.5, -2.5)


def test_equal_rewards_have_no_variance() -> None:
    assert not formed(impression(SLATE)).has_variance
    assert not formed(impression(SLATE), examined=()).has_variance
    assert formed(impression(SLATE), chosen={0: ActionType.CLICK}).has_variance


@pytest.mark.parametrize(
    ("shown", "examined", "reason"),
    [
        (impression(SLATE, degraded="generator_late"), (0,), DropReason.DEGRADED),
        (impression(SLATE, generation=2), (0,), DropReason.OTHER_GENERATION),
        (impression(SLATE), None, DropReason.NO_EXAMINATION),
    ],
)
def test_requests_that_teach_nothing_are_dropped_with_a_reason(
    shown: Impression, examined: Sequence[int] | None, reason: DropReason
) -> None:
    event = reward_event(shown, chosen={0: ActionType.ORDER}, examined=examined)
    assert form_group(event, generation=1, sid_of=CATALOG.get, max_experts=4) is reason
