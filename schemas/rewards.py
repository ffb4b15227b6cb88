"""Reward events: one impression joined with what the user did inside the attribution window."""

from msgspec import Struct

from schemas.actions import ActionType
from schemas.impressions import Impression

# The outcome of an item is the largest of these over its actions (FLOW, RewardEvent); examined
# alone is 0.
OUTCOMES: dict[ActionType, float] = {
    ActionType.ORDER: 1.0,
    ActionType.CART: 0.7,
    ActionType.FAVORITE: 0.6,
    ActionType.CLICK: 0.4,
    ActionType.DISLIKE: -0.5,
}


class ItemOutcome(Struct, frozen=True, kw_only=True):
    """What became of one item: the largest outcome, the action that gave it, and whether the join
    was inferred.
    """

    item_key: int
    item_id: str
    outcome: float
    action: ActionType
    inferred: bool


class RewardEvent(Struct, frozen=True, kw_only=True, tag_field="schema", tag="reward_event/1"):
    """`request_id` is deterministic, so a repeat is recognised by the trainer.

    `outcomes` are of slate items, `outside` of items chosen beside the slate; `examined` holds the
    positions that were seen, or None when nothing tells which were.
    """

    request_id: str
    impression: Impression
    outcomes: list[ItemOutcome]
    outside: list[ItemOutcome]
    examined: list[int] | None
    joined_until_ms: int
