"""Which actions are high-value, scenario by scenario. Pure.

A high-value action opens a window, and a window becomes an instruction. Most are by what they are
(an order, a search); a click may be by what came before it: the n-th click of a user on one item,
counted in Redis' history when the action is written there (`streams/lua/history.lua`).
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from schemas.actions import ActionType, UserAction, UserErased

DEFAULT_ACTIONS = (
    ActionType.ORDER,
    ActionType.CART,
    ActionType.FAVORITE,
    ActionType.SEARCH,
    ActionType.DISLIKE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HighValuePolicy:
    """The policy of one scenario.

    `clicks`: a click is high-value from the user's n-th one on the same item on, among the actions
    that history keeps; 0: no click is. Each counted click costs Redis a walk over that history.
    """

    actions: tuple[ActionType, ...] = DEFAULT_ACTIONS
    clicks: Annotated[int, Meta(ge=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A record for `partition` of `high-value-actions`, if history counts `needs` clicks (0: any).

    `place` is its index in the batch's history, by which the count comes back. An erasure always
    goes on: it closes what the user's actions opened.
    """

    partition: int
    record: UserAction | UserErased
    place: int
    needs: int = 0


class HighValueTable:
    """Scenario -> policy; a scenario that the table does not name has the default."""

    def __init__(
        self, default: HighValuePolicy, by_scenario: Mapping[str, HighValuePolicy] | None = None
    ) -> None:
        self._default = (frozenset(default.actions), default.clicks)
        self._by_scenario = {
            scenario: (frozenset(policy.actions), policy.clicks)
            for scenario, policy in (by_scenario or {}).items()
        }

    def clicks_needed(self, action: UserAction) -> int | None:
        """Returns from how many clicks on its item on an action is high-value.

        0: it is, whatever was clicked. None: it never is.
        """
        kinds, clicks = self._by_scenario.get(action.scenario, self._default)
        if action.action in kinds:
            return 0
        if clicks and action.action is ActionType.CLICK and action.item_id is not None:
            return clicks
        return None

    def high_value_of(self, actions: Iterable[UserAction], kept: int) -> list[UserAction]:
        """Returns the high-value ones of one user's actions, which stand in the order of time.

        `kept`: how many actions history holds, and clicks are counted among.
        """
        clicks = ClickHistory(kept)
        return [action for action in actions if self.takes(action, clicks.observe(action))]

    def takes(self, action: UserAction, clicks: int) -> bool:
        """Returns whether an action is high-value, with so many clicks on its item behind it."""
        needs = self.clicks_needed(action)
        return needs is not None and clicks >= needs


class ClickHistory:
    """One user's clicks by item, among the last `kept` actions: what history would count."""

    def __init__(self, kept: int) -> None:
        self._kept: deque[str | None] = deque(maxlen=kept)  # the item of a click, else None
        self._clicks: Counter[str] = Counter()

    def observe(self, action: UserAction) -> int:
        """Takes in the next action; returns the clicks on its item, itself among them."""
        clicked = action.item_id if action.action is ActionType.CLICK else None
        if len(self._kept) == self._kept.maxlen and (oldest := self._kept[0]) is not None:
            self._clicks[oldest] -= 1
        self._kept.append(clicked)
        if clicked is not None:
            self._clicks[clicked] += 1
        return self._clicks[action.item_id or ""]


def chosen(candidates: Iterable[Candidate], clicks: Mapping[int, int]) -> list[Candidate]:
    """Returns the candidates that are high-value, in order; `clicks`: the counts by place."""
    return [one for one in candidates if clicks.get(one.place, 0) >= one.needs]
