"""The instructions that serving would have had, replayed over a log: "trained as served".

`models` may not import `streams`: the staggered window function comes in from the caller, who
passes `streams.windows.window_start_ms` bound to the configuration that serving uses.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from models.reasoning.context import Reasoning, ReasoningContext
from models.reasoning.local_reasoner import LocalReasoner
from schemas.actions import UserAction
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow, ItemUpsert, item_key_of
from schemas.users import UserProfile

HISTORY_LENGTH = 200  # what Redis keeps of a user (FLOW, Defaults)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedWindows:
    """The windows of serving: `start_of(user_id, event_time_ms)`, which of one user's actions (by
    time) are high-value, and the settings beside them.

    `expires_ms` None: instructions never go stale (logs with day timestamps, replayed faster).
    """

    start_of: Callable[[str, int], int]
    window_ms: int
    grace_ms: int
    high_value_of: Callable[[Sequence[UserAction]], list[UserAction]]
    expires_ms: int | None = 36 * 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowInstruction:
    """What slow thinking concluded when one window of one user had closed."""

    window_start_ms: int
    as_of_ms: int
    available_ms: int
    reasoning: Reasoning


class InstructionReplay:
    """Composes the instruction of every high-value window, from what was known then."""

    def __init__(
        self,
        *,
        reasoner: LocalReasoner,
        windows: ServedWindows,
        items: Mapping[int, ItemRow],
        profiles: Mapping[str, UserProfile],
    ) -> None:
        self.windows = windows
        self._reasoner = reasoner
        self._items = items
        self._profiles = profiles

    def instructions_of(
        self, user_id: str, actions: Sequence[UserAction]
    ) -> list[WindowInstruction]:
        """Returns one instruction a window, oldest first. `actions` are one user's, by time."""
        high_value = self.windows.high_value_of(actions)
        behaviour = [behaviour_of(action) for action in actions]
        times = [action.event_time_ms for action in actions]

        def start_of(action: UserAction) -> int:
            return self.windows.start_of(user_id, action.event_time_ms)

        found = []
        for start_ms, window in groupby(high_value, key=start_of):
            end_ms = start_ms + self.windows.window_ms
            known = bisect_right(times, end_ms - 1)
            context = ReasoningContext(
                user_id=user_id,
                as_of_ms=end_ms,
                window=list(window),
                behaviour=behaviour[max(0, known - HISTORY_LENGTH) : known],
                items=self._items,
                profile=self._profiles.get(user_id),
            )
            found.append(
                WindowInstruction(
                    window_start_ms=start_ms,
                    as_of_ms=end_ms,
                    available_ms=end_ms + self.windows.grace_ms,
                    reasoning=self._reasoner.compose(context),
                )
            )
        return found

    def in_force(
        self, instructions: Sequence[WindowInstruction], at_ms: int
    ) -> WindowInstruction | None:
        """Returns the instruction serving would read at `at_ms`: the newest, unless stale."""
        newest = bisect_right(instructions, at_ms, key=lambda i: i.available_ms) - 1
        if newest < 0:
            return None
        found = instructions[newest]
        expires_ms = self.windows.expires_ms
        stale = expires_ms is not None and at_ms - found.as_of_ms > expires_ms
        return None if stale else found


def behaviour_of(action: UserAction) -> Behaviour:
    """Returns the action as history remembers it."""
    return Behaviour(
        event_id=action.event_id,
        action=action.action,
        event_time_ms=action.event_time_ms,
        item_key=item_key_of(action.item_id) if action.item_id else None,
        query=action.query,
        scenario=action.scenario,
    )


def item_rows(items: Sequence[ItemUpsert]) -> dict[int, ItemRow]:
    """Returns the rows by key that the catalog indexer would have written for these items."""
    rows = (
        ItemRow(
            item_key=item_key_of(item.item_id),
            item_id=item.item_id,
            live=item.in_stock,
            title=item.title,
            category=item.category,
            scenarios=item.scenarios,
        )
        for item in items
    )
    return {row.item_key: row for row in rows}
