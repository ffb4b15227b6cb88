"""What a user likes: categories by per-action strength and time decay (OxygenREC, section 3.3)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.actions import ActionType
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow

# Ours: the ratios of the outcome values (order 1.0, cart 0.7, favourite 0.6, click 0.4) in round
# numbers; a dislike takes back about what a cart gave.
STRENGTHS: dict[ActionType, float] = {
    ActionType.ORDER: 5.0,
    ActionType.CART: 3.5,
    ActionType.FAVORITE: 3.0,
    ActionType.SHARE: 2.0,
    ActionType.CLICK: 1.0,
    ActionType.VIEW: 1.0,
    ActionType.DISLIKE: -3.5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AffinityConfig:
    """How fast interest fades. Ours: after three days a click counts half."""

    half_life_ms: int = 3 * 86_400_000


def category_affinities(
    behaviour: Sequence[Behaviour],
    items: Mapping[int, ItemRow],
    as_of_ms: int,
    config: AffinityConfig,
) -> list[tuple[str, float]]:
    """Returns (category path, score) by falling score, positive scores alone; ties by name."""
    scores: defaultdict[str, float] = defaultdict(float)
    for action in behaviour:
        row = items.get(action.item_key) if action.item_key is not None else None
        strength = STRENGTHS.get(action.action)
        if row is None or strength is None or not row.category:
            continue
        age_ms = max(0, as_of_ms - action.event_time_ms)
        scores[row.category] += strength * 0.5 ** (age_ms / config.half_life_ms)
    positive = [(category, score) for category, score in scores.items() if score > 0]
    return sorted(positive, key=lambda pair: (-pair[1], pair[0]))


def leaf_name(category: str) -> str:
    """Returns `Umbrellas` for `Outdoor > Umbrellas`."""
    return category.rsplit(">", maxsplit=1)[-1].strip()
