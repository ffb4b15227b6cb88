"""Which kind is written when: one table, whatever the order of a window's actions."""

from itertools import permutations

import pytest

from models.reasoning.instruction_kinds import kind_of
from schemas.actions import ActionType, UserAction
from schemas.instructions import InstructionKind

A = ActionType


def action(kind: ActionType) -> UserAction:
    return UserAction(event_id=kind, user_id="u", action=kind, event_time_ms=1)


@pytest.mark.parametrize(
    ("window", "kind"),
    [
        ((), InstructionKind.PROFILE),
        ((A.DISLIKE,), InstructionKind.PROFILE),
        ((A.CLICK, A.VIEW, A.EXPOSE, A.SHARE), InstructionKind.PROFILE),
        ((A.FAVORITE,), InstructionKind.INTENT),
        ((A.CART, A.CLICK), InstructionKind.INTENT),
        ((A.ORDER, A.DISLIKE), InstructionKind.INTENT),
        ((A.SEARCH,), InstructionKind.QUERY_REWRITE),
        ((A.ORDER, A.SEARCH, A.CART), InstructionKind.QUERY_REWRITE),
    ],
)
def test_a_search_outweighs_a_choice_and_a_choice_the_rest(
    window: tuple[ActionType, ...], kind: InstructionKind
) -> None:
    for order in permutations(window):
        assert kind_of([action(one) for one in order]) is kind


def test_every_action_decides_for_some_kind() -> None:
    found = {kind: kind_of([action(kind)]) for kind in ActionType}
    assert set(found.values()) == set(InstructionKind)
