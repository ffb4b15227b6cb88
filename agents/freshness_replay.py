"""Replays a shop's past through the window core and the local reasoner. Pure: no server, no clock.

What production does with a live clock, user by user: a window closes when the watermark (event time
of now, less the router's lag) has passed its end and the grace; its instruction is there a moment
later. So at each high-value action it is known which instruction the user had, and how old it was.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from agents.high_value import ClickHistory, HighValueTable
from models.evaluation.freshness import NONE_IN_FORCE, Replayed
from models.reasoning.context import ReasoningContext
from models.reasoning.item_text import item_text
from models.reasoning.local_reasoner import LocalReasoner
from models.semantic_ids.encoders import TextEncoder
from schemas.actions import UserAction
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow, ItemUpsert, item_key_of
from schemas.instructions import InstructionTrigger
from streams.windows import PartitionWindows, WindowConfig

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """How production would be set; `pipeline_ms` is what a trigger takes to become visible.

    `new_items`: judge only actions on items that the user has not acted on before.
    """

    windows: WindowConfig
    high_value: HighValueTable
    live_lag_ms: int = 2_000
    pipeline_ms: int = 1_000
    history_length: int = 200
    new_items: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One high-value action: the row of its item, and of the text in force (-1: none)."""

    user: int
    item: int
    text: int
    age_ms: int


@dataclass(slots=True)
class Texts:
    """Every instruction that was in force at some action, by its place."""

    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> int:
        """Returns the place of a text."""
        self.texts.append(text)
        return len(self.texts) - 1


class Catalogue:
    """Items by id: their rows for the reasoner, their places among the vectors."""

    def __init__(self, items: Sequence[ItemUpsert]) -> None:
        self.texts = [item_text(item) for item in items]
        self.place_of = {item.item_id: place for place, item in enumerate(items)}
        self.key_of = {item.item_id: item_key_of(item.item_id) for item in items}
        self.rows: dict[int, ItemRow] = {
            self.key_of[item.item_id]: ItemRow(
                item_key=self.key_of[item.item_id],
                item_id=item.item_id,
                live=True,
                title=item.title,
                category=item.category,
            )
            for item in items
        }


class UserReplay:
    """One user's past, action by action, in the order of event time."""

    def __init__(
        self, number: int, catalogue: Catalogue, config: ReplayConfig, texts: Texts
    ) -> None:
        self._number = number
        self._catalogue = catalogue
        self._config = config
        self._texts = texts
        self._windows = PartitionWindows(0, config.windows)
        self._reasoner = LocalReasoner()
        self._waiting: list[tuple[int, InstructionTrigger]] = []
        self._in_force: InstructionTrigger | None = None
        self._place = NONE_IN_FORCE  # of its text, once somebody asked
        self._past: list[UserAction] = []
        self._clicks = ClickHistory(config.history_length)

    def run(self, actions: Iterable[UserAction]) -> list[Judged]:
        """Returns the user's high-value actions on items, each with the instruction it met."""
        found = []
        touched: set[str] = set()
        for number, action in enumerate(actions):
            now_ms = action.event_time_ms
            self._past.append(action)
            self._advance(now_ms, 2 * number)
            item, again = action.item_id, action.item_id in touched
            if item is not None:
                touched.add(item)
            if not self._config.high_value.takes(action, self._clicks.observe(action)):
                continue
            if item is not None and not (self._config.new_items and again):
                found.append(self._judged(item, now_ms))
            self._windows.observe(action, 2 * number + 1)
            for trigger in self._windows.take_effects().triggers:
                self._waiting.append((now_ms + self._config.pipeline_ms, trigger))
        return found

    def _advance(self, now_ms: int, offset: int) -> None:
        """Lets time come: what has closed and been written by now is in force."""
        behind_ms = self._config.live_lag_ms + self._config.pipeline_ms
        self._windows.advance(now_ms - behind_ms, offset)
        for trigger in self._windows.take_effects().triggers:
            self._waiting.append((now_ms, trigger))
        for visible_ms, trigger in self._waiting:
            newest = self._in_force
            if visible_ms <= now_ms and (newest is None or newest.until_ms < trigger.until_ms):
                self._in_force, self._place = trigger, NONE_IN_FORCE
        self._waiting = [entry for entry in self._waiting if entry[0] > now_ms]

    def _judged(self, item: str, now_ms: int) -> Judged:
        place = self._catalogue.place_of.get(item, -1)
        trigger = self._in_force
        if trigger is None:
            return Judged(user=self._number, item=place, text=NONE_IN_FORCE, age_ms=NONE_IN_FORCE)
        if self._place == NONE_IN_FORCE and place >= 0:
            self._place = self._texts.add(self._reason(trigger))
        age_ms = max(0, now_ms - trigger.until_ms)
        return Judged(user=self._number, item=place, text=self._place, age_ms=age_ms)

    def _reason(self, trigger: InstructionTrigger) -> str:
        """Composes as the instruction writer does: from what history held at the trigger's time."""
        end = bisect_left(self._past, trigger.until_ms, key=lambda action: action.event_time_ms)
        past = self._past[max(0, end - self._config.history_length) : end]
        context = ReasoningContext(
            user_id=trigger.user_id,
            as_of_ms=trigger.until_ms,
            window=trigger.actions,
            behaviour=[self._behaviour(action) for action in past],
            items=self._catalogue.rows,
        )
        return self._reasoner.compose(context).text

    def _behaviour(self, action: UserAction) -> Behaviour:
        item = action.item_id
        return Behaviour(
            event_id=action.event_id,
            action=action.action,
            event_time_ms=action.event_time_ms,
            item_key=None if item is None else self._catalogue.key_of.get(item),
            query=action.query,
            scenario=action.scenario,
        )


def replay(
    users: Mapping[str, Sequence[UserAction]],
    items: Sequence[ItemUpsert],
    encoder: TextEncoder | None,
    config: ReplayConfig,
    on_user: Callable[[], None] = lambda: None,
) -> Replayed:
    """Returns ages, and where there is an encoder cosines, of all high-value actions on items.

    `users`: each one's actions by event time.
    """
    catalogue, texts = Catalogue(items), Texts()
    judged: list[Judged] = []
    for number, actions in enumerate(users.values()):
        judged += UserReplay(number, catalogue, config, texts).run(actions)
        on_user()
    places = np.array([one.item for one in judged], dtype=np.int64)
    said = np.array([one.text for one in judged], dtype=np.int64)
    cosine, chance = np.full((2, len(judged)), np.nan)
    known = np.flatnonzero((places >= 0) & (said >= 0))
    if encoder is not None and len(known):
        instructions = encoder.encode(texts.texts)
        chosen = encoder.encode(catalogue.texts)
        other = np.random.default_rng(config.seed).permutation(places[known])
        cosine[known] = _cosines(instructions, said[known], chosen, places[known])
        chance[known] = _cosines(instructions, said[known], chosen, other)
    return Replayed(
        users=np.array([one.user for one in judged], dtype=np.int64),
        age_ms=np.array([one.age_ms for one in judged], dtype=np.int64),
        cosine=cosine,
        chance=chance,
    )


def both_triggers(
    users: Mapping[str, Sequence[UserAction]],
    items: Sequence[ItemUpsert],
    encoder: TextEncoder | None,
    config: ReplayConfig,
    on_user: Callable[[], None] = lambda: None,
) -> dict[str, Replayed]:
    """Returns the replays with `trigger = close` and `first`, of the same actions in one order."""
    found = {}
    for trigger in ("close", "first"):
        windows = replace(config.windows, trigger=trigger)
        found[trigger] = replay(users, items, encoder, replace(config, windows=windows), on_user)
    return found


def users_of(
    actions: Iterable[UserAction], limit: int | None, seed: int
) -> dict[str, list[UserAction]]:
    """Returns each user's actions by event time; of more than `limit` users that many are drawn."""
    by_user: defaultdict[str, list[UserAction]] = defaultdict(list)
    for action in actions:
        by_user[action.user_id].append(action)
    names = sorted(by_user)
    if limit is not None and limit < len(names):
        drawn = np.random.default_rng(seed).choice(len(names), limit, replace=False)
        names = [names[place] for place in sorted(drawn)]
    return {
        name: sorted(by_user[name], key=lambda a: (a.event_time_ms, a.event_id)) for name in names
    }


def _cosines(
    left: Floats, left_rows: npt.NDArray[np.int64], right: Floats, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Returns dot products of unit rows; a text with nothing known is a row of 0: NaN, no zero."""
    dots = np.einsum("ad,ad->a", left[left_rows], right[rows]).astype(np.float64)
    worded_left = np.abs(left).sum(axis=1) > 0
    worded_right = np.abs(right).sum(axis=1) > 0
    return np.where(worded_left[left_rows] & worded_right[rows], dots, np.nan)
