"""Slow thinking without an LLM: a short, deterministic text made of what the context says.

The text is embedded by an encoder that counts character n-grams, so words that stand in everybody's
instruction dilute the vector: the text keeps to words that tell users apart. A search comes first
and alone with the surroundings, because the visible history does not carry it (ALGORITHMS 2).
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from models.reasoning.affinities import AffinityConfig, category_affinities, leaf_name
from models.reasoning.context import Reasoning, ReasoningContext
from models.reasoning.surroundings import day_part_of, season_of
from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of
from schemas.instructions import InstructionKind

INTENT_ACTIONS = frozenset({ActionType.ORDER, ActionType.CART, ActionType.FAVORITE})
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalReasonerConfig:
    """Lengths in characters and counts, so that no user can fill the text alone; times in ms."""

    max_text: int = 400
    max_words: int = 80  # of one query, title, city: whoever writes it
    queries: int = 2
    titles: int = 2
    categories: int = 3
    search_memory_ms: int = 1_800_000  # a search still speaks in the windows of its half hour
    affinity: AffinityConfig = field(default_factory=AffinityConfig)


class LocalReasoner:
    """Composes the instruction of a closed window. Pure: the same context, the same text."""

    def __init__(self, config: LocalReasonerConfig | None = None) -> None:
        self._config = config or LocalReasonerConfig()

    @property
    def name(self) -> str:
        return "local/1"

    async def reason(self, context: ReasoningContext) -> Reasoning:
        """Returns `compose(context)`: the port that an LLM would satisfy too."""
        return self.compose(context)

    def compose(self, context: ReasoningContext) -> Reasoning:
        """Returns kind and text (at most `max_text` characters) for the window of this context."""
        kind = kind_of(context.window)
        if kind is InstructionKind.QUERY_REWRITE:
            parts = [self._searches(context.window)]
        elif kind is InstructionKind.INTENT:
            parts = [self._earlier_search(context), self._chosen(context), self._likes(context)]
        else:
            parts = [self._earlier_search(context), self._likes(context)]
        parts.append(self._surroundings(context))
        text = "; ".join(part for part in parts if part)
        return Reasoning(kind=kind, text=text[: self._config.max_text])

    def _searches(self, actions: Iterable[UserAction]) -> str:
        newest_first = reversed([a.query for a in actions if a.action is ActionType.SEARCH])
        return self._quoted(query for query in newest_first if query)

    def _earlier_search(self, context: ReasoningContext) -> str:
        """The last words said before this window, unless an order answered them since."""
        for action in reversed(context.behaviour):
            if context.as_of_ms - action.event_time_ms > self._config.search_memory_ms:
                return ""
            if action.action is ActionType.ORDER:
                return ""
            if action.action is ActionType.SEARCH and action.query:
                return self._quoted([action.query])
        return ""

    def _quoted(self, queries: Iterable[str]) -> str:
        cleaned = dict.fromkeys(self._clean(query) for query in queries)
        words = [query for query in cleaned if query][: self._config.queries]
        return "searches " + ", ".join(f'"{query}"' for query in words) if words else ""

    def _chosen(self, context: ReasoningContext) -> str:
        """What was ordered, put in the cart or marked in the window, newest first."""
        chosen: dict[str, None] = {}
        for action in reversed(context.window):
            if action.action not in INTENT_ACTIONS or action.item_id is None:
                continue
            row = context.items.get(item_key_of(action.item_id))
            if row is not None:
                chosen[f"{self._clean(row.title)} ({self._leaf(row.category)})"] = None
        titles = list(chosen)[: self._config.titles]
        return "chose " + ", ".join(titles) if titles else ""

    def _likes(self, context: ReasoningContext) -> str:
        ranked = category_affinities(
            context.behaviour, context.items, context.as_of_ms, self._config.affinity
        )
        names = [self._leaf(category) for category, _ in ranked[: self._config.categories]]
        return "likes " + ", ".join(names) if names else ""

    def _surroundings(self, context: ReasoningContext) -> str:
        """Season and part of the day at the place, weather, city, age band, as far as known."""
        place = next((a.context for a in reversed(context.window) if a.context), None)
        profile = context.profile
        city = (place.city if place else None) or (profile.city if profile else "") or ""
        tz = place.tz if place else None
        moment = f"{season_of(context.as_of_ms, city, tz)} {day_part_of(context.as_of_ms, tz)}"
        weather = place.weather if place else None
        age_band = profile.age_band if profile else ""
        known = [self._clean(words) for words in (weather, city, age_band) if words]
        return ", ".join([moment, *known])

    def _leaf(self, category: str) -> str:
        return self._clean(leaf_name(category))

    def _clean(self, words: str) -> str:
        """Drops control characters, folds white space, keeps quotes ours, caps the length."""
        kept = "".join(
            " " if unicodedata.category(letter)[0] in "CZ" else letter
            for letter in words[: 4 * self._config.max_words]
        )
        return _SPACES.sub(" ", kept.replace('"', "'")).strip()[: self._config.max_words].rstrip()


def kind_of(window: Iterable[UserAction]) -> InstructionKind:
    """Returns what the window asks for: a search outweighs a choice, a choice the rest."""
    actions = {action.action for action in window}
    if ActionType.SEARCH in actions:
        return InstructionKind.QUERY_REWRITE
    if actions & INTENT_ACTIONS:
        return InstructionKind.INTENT
    return InstructionKind.PROFILE
