"""Slow thinking without an LLM: a short, deterministic text made of what the context says.

The text is embedded by an encoder that counts character n-grams, so words that stand in everybody's
instruction dilute the vector: the text keeps to words that tell users apart. A search comes first
and alone with the surroundings, because the visible history does not carry it (ALGORITHMS 2).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from models.reasoning.affinities import AffinityConfig, category_affinities, leaf_name
from models.reasoning.context import Reasoning, ReasoningContext
from models.reasoning.instruction_kinds import CHOICES, kind_of
from models.reasoning.plain_text import plain
from models.reasoning.surroundings import surroundings_of
from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of
from schemas.instructions import InstructionKind

NAME = "local/1"  # changes with the texts: it travels in every instruction


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
        return NAME

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
        return Reasoning(kind=kind, text=text[: self._config.max_text], reasoner=self.name)

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
            if action.action not in CHOICES or action.item_id is None:
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
        """Season and part of the day; holiday, weather, city, age band as far as known."""
        found = surroundings_of(context.window, context.profile, context.as_of_ms)
        age_band = context.profile.age_band if context.profile else ""
        said = (found.holiday, found.weather, found.city, age_band)
        known = [self._clean(words) for words in said if words]
        return ", ".join([f"{found.season} {found.day_part}", *known])

    def _leaf(self, category: str) -> str:
        return self._clean(leaf_name(category))

    def _clean(self, words: str) -> str:
        return plain(words, self._config.max_words)
