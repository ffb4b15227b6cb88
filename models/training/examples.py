"""Training rows "as served" (ALGORITHMS 2): what the generator would have seen before each choice.

One row a choice: the first action on an item, weighted by the strongest action on it within the
attribution window. History, trigger and instruction are those of that moment; search rows carry
the query itself.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from models.features import NOT_HISTORY, build_history
from models.generator.losses import behaviour_weight
from models.training.instructions import InstructionReplay, WindowInstruction, behaviour_of
from schemas.actions import ActionType, UserAction
from schemas.behaviour import Behaviour
from schemas.impressions import HistoryFeatures

HOUR_MS = 3_600_000
NO_TEXT = -1  # the learnable default


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One choice. `text` and `older_text` index `Examples.texts`; `NO_TEXT` is the default."""

    user_id: str
    at_ms: int
    scenario: str
    target_key: int
    weight: float
    history: HistoryFeatures
    trigger_key: int | None
    text: int
    older_text: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Rows by user and time, and the distinct instruction texts they point at."""

    rows: list[Example]
    texts: list[str]

    def sample(self, count: int, rng: Random) -> "Examples":
        """Returns `count` rows drawn without replacement, and the texts that they use."""
        rows = rng.sample(self.rows, count)
        used = sorted({text for row in rows for text in (row.text, row.older_text)} - {NO_TEXT})
        place = {text: number for number, text in enumerate(used)} | {NO_TEXT: NO_TEXT}
        moved = [
            replace(row, text=place[row.text], older_text=place[row.older_text]) for row in rows
        ]
        return Examples(rows=moved, texts=[self.texts[text] for text in used])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleConfig:
    """`recent` must be serving's; an older instruction is up to a day old (ALGORITHMS 2)."""

    recent: int = 20
    looked_back: int = 60  # actions handed to `build_history`: 20 on items and the searches between
    attribution_ms: int = 1_800_000
    older_from_ms: int = HOUR_MS
    older_to_ms: int = 24 * HOUR_MS
    search_memory_ms: int = 1_800_000


class ExampleBuilder:
    """Turns a log into rows. A row's instruction knows nothing after its window's end."""

    def __init__(self, replay: InstructionReplay, config: ExampleConfig, rng: Random) -> None:
        self._replay = replay
        self._config = config
        self._rng = rng
        self._texts: dict[str, int] = {}

    def build(self, actions: Sequence[UserAction]) -> Examples:
        """Returns the rows of all users; `actions` may come in any order."""
        by_user: defaultdict[str, list[UserAction]] = defaultdict(list)
        for action in sorted(actions, key=lambda a: (a.event_time_ms, a.event_id)):
            by_user[action.user_id].append(action)
        rows = [row for user_id in sorted(by_user) for row in self._of(user_id, by_user[user_id])]
        return Examples(rows=rows, texts=list(self._texts))

    def _of(self, user_id: str, actions: list[UserAction]) -> list[Example]:
        instructions = self._replay.instructions_of(user_id, actions)
        behaviour = [behaviour_of(action) for action in actions]
        return [
            self._row(actions[first], first, rest, behaviour, instructions)
            for first, *rest in self._choices(behaviour)
        ]

    def _choices(self, behaviour: list[Behaviour]) -> list[list[int]]:
        """Returns runs of places on one item, none longer than the attribution window."""
        runs: list[list[int]] = []
        for place, action in enumerate(behaviour):
            if not chooses(action):
                continue
            first = behaviour[runs[-1][0]] if runs else None
            same = first is not None and first.item_key == action.item_key
            if (
                first is None
                or not same
                or action.event_time_ms - first.event_time_ms > self._config.attribution_ms
            ):
                runs.append([])
            runs[-1].append(place)
        return runs

    def _row(
        self,
        action: UserAction,
        first: int,
        rest: list[int],
        behaviour: list[Behaviour],
        instructions: list[WindowInstruction],
    ) -> Example:
        at_ms = action.event_time_ms
        weight = max(behaviour_weight(behaviour[place].action) for place in (first, *rest))
        seen = behaviour[max(0, first - self._config.looked_back) : first]
        history = build_history(seen, at_ms, self._config.recent)
        on_detail = action.scenario == "detail" and history.item_keys
        target_key = behaviour[first].item_key
        if target_key is None:  # `chooses` let nothing without an item through
            raise ValueError(action)
        return Example(
            user_id=action.user_id,
            at_ms=at_ms,
            scenario=action.scenario,
            target_key=target_key,
            weight=weight,
            history=history,
            trigger_key=history.item_keys[-1] if on_detail else None,
            text=self._text_at(action, seen, instructions),
            older_text=self._older_text_at(at_ms, instructions),
        )

    def _text_at(
        self,
        action: UserAction,
        seen: Sequence[Behaviour],
        instructions: list[WindowInstruction],
    ) -> int:
        """The query itself on a page of search results, else the instruction in force."""
        if action.scenario == "search":
            newest_ms = action.event_time_ms - self._config.search_memory_ms
            for earlier in reversed(seen):
                if earlier.query and earlier.event_time_ms >= newest_ms:
                    return self._index(earlier.query)
        found = self._replay.in_force(instructions, action.event_time_ms)
        return self._index(found.reasoning.text) if found else NO_TEXT

    def _older_text_at(self, at_ms: int, instructions: list[WindowInstruction]) -> int:
        """The newest instruction of a moment 1-24 h earlier: the writer may lag, or be down."""
        age_ms = self._rng.uniform(self._config.older_from_ms, self._config.older_to_ms)
        available = [i.available_ms for i in instructions]
        newest = bisect_left(available, at_ms - age_ms) - 1
        return self._index(instructions[newest].reasoning.text) if newest >= 0 else NO_TEXT

    def _index(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))


def chooses(behaviour: Behaviour) -> bool:
    """Returns whether the action is a choice to learn from: on an item, and not against it."""
    if behaviour.item_key is None or behaviour.action is ActionType.DISLIKE:
        return False
    return behaviour.action not in NOT_HISTORY
