"""Which of the three kinds of instruction a closed window asks for (OxygenREC, section 3.3).

| the window holds | kind | because |
|---|---|---|
| a search | query rewrite | the user said it: words outweigh everything the log implies |
| an order, a cart, a favourite | intent inference | a choice says what the visit is about |
| anything else, or nothing (a refresh) | spatiotemporal profile | who, where and when is left |
"""

from collections.abc import Iterable

from schemas.actions import ActionType, UserAction
from schemas.instructions import InstructionKind

CHOICES = frozenset({ActionType.ORDER, ActionType.CART, ActionType.FAVORITE})


def kind_of(window: Iterable[UserAction]) -> InstructionKind:
    """Returns the one kind that is written for a window, whatever the order of its actions."""
    actions = {action.action for action in window}
    if ActionType.SEARCH in actions:
        return InstructionKind.QUERY_REWRITE
    if actions & CHOICES:
        return InstructionKind.INTENT
    return InstructionKind.PROFILE
