"""What may leave this process when a language model reasons: an allow-list, as a record.

A `Brief` is built field by field from the context. Whatever is not a field here (user id, event and
request ids, item ids, prices, devices, attributes that nobody released) has no way out. Titles,
queries, cities and weather were written by others: each is one line, capped, without control
characters. How long behaviour counts is ours: hours for what the user is about, a month for taste.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from models.reasoning.affinities import (
    STRENGTHS,
    AffinityConfig,
    category_affinities,
    leaf_name,
)
from models.reasoning.context import ReasoningContext
from models.reasoning.plain_text import plain
from models.reasoning.surroundings import surroundings_of
from schemas.actions import ActionType
from schemas.behaviour import Behaviour

MINUTE_MS = 60_000
HOUR_MS = 3_600_000

BriefField = Literal[
    "scenario", "season", "weekday", "day_part", "holiday", "weather", "city", "age_band",
    "attributes", "searches", "items", "likes_now", "likes_long",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BriefConfig:
    """`fields` may leave; `attributes` names the profile attributes that may leave with them."""

    fields: tuple[BriefField, ...] = (
        "scenario", "season", "weekday", "day_part", "holiday", "weather", "city", "age_band",
        "attributes", "searches", "items", "likes_now", "likes_long",
    )  # fmt: skip
    attributes: tuple[str, ...] = ()
    max_words: int = 80  # characters of one title, query, city: whoever writes it
    searches: int = 5
    items: int = 10
    categories: int = 5
    search_memory_ms: int = 7 * 24 * HOUR_MS
    now_half_life_ms: int = 6 * HOUR_MS
    long_half_life_ms: int = 30 * 24 * HOUR_MS


class BriefSearch(Struct, frozen=True, kw_only=True):
    """Words that the user searched for."""

    words: str
    minutes_ago: int


class BriefItem(Struct, frozen=True, kw_only=True):
    """An item the user acted on; `strength` = the action's, halved every half-life."""

    action: str
    title: str
    category: str
    strength: float


class BriefLike(Struct, frozen=True, kw_only=True):
    """A category and the sum of the decayed strengths in it."""

    category: str
    strength: float


class Brief(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a model is told about one window. Its fields are `BriefField`, tested."""

    scenario: str = ""
    season: str = ""
    weekday: str = ""
    day_part: str = ""
    holiday: str = ""
    weather: str = ""
    city: str = ""
    age_band: str = ""
    attributes: dict[str, str] = {}
    searches: list[BriefSearch] = []
    items: list[BriefItem] = []
    likes_now: list[BriefLike] = []
    likes_long: list[BriefLike] = []


def brief_of(context: ReasoningContext, config: BriefConfig) -> Brief:
    """Returns what `config` lets leave of a context. Pure."""
    writer = _Writer(context, config)
    return Brief(**{name: getattr(writer, name)() for name in config.fields})


class _Writer:
    """One method a field of `Brief`."""

    def __init__(self, context: ReasoningContext, config: BriefConfig) -> None:
        self._context = context
        self._config = config
        self._found = surroundings_of(context.window, context.profile, context.as_of_ms)

    def scenario(self) -> str:
        if self._context.window:
            return self._plain(self._context.window[-1].scenario)
        behaviour = self._context.behaviour
        return self._plain(behaviour[-1].scenario) if behaviour else ""

    def season(self) -> str:
        return self._found.season

    def weekday(self) -> str:
        return self._found.weekday

    def day_part(self) -> str:
        return self._found.day_part

    def holiday(self) -> str:
        return self._plain(self._found.holiday)

    def weather(self) -> str:
        return self._plain(self._found.weather)

    def city(self) -> str:
        return self._plain(self._found.city)

    def age_band(self) -> str:
        profile = self._context.profile
        return self._plain(profile.age_band) if profile else ""

    def attributes(self) -> dict[str, str]:
        profile = self._context.profile
        held = profile.attributes if profile else {}
        return {
            self._plain(name): self._plain(held[name])
            for name in self._config.attributes
            if name in held
        }

    def searches(self) -> list[BriefSearch]:
        """The newest different searches, newest first: those of the window and before it."""
        said = [(a.event_time_ms, a.query) for a in self._context.window]
        said += [(b.event_time_ms, b.query) for b in self._context.behaviour]
        found: dict[str, BriefSearch] = {}
        for at_ms, query in sorted(said, key=lambda one: -one[0]):
            age_ms = max(0, self._context.as_of_ms - at_ms)
            words = self._plain(query or "")
            if words and words not in found and age_ms <= self._config.search_memory_ms:
                found[words] = BriefSearch(words=words, minutes_ago=age_ms // MINUTE_MS)
        return list(found.values())[: self._config.searches]

    def items(self) -> list[BriefItem]:
        """The strongest actions on items, each item once, strongest first."""
        best: dict[int, tuple[float, ActionType]] = {}
        for action in self._context.behaviour:
            key, strength = action.item_key, STRENGTHS.get(action.action)
            if key is None or key not in self._context.items or strength is None:
                continue
            decayed = strength * self._decay(action)
            if key not in best or abs(decayed) >= abs(best[key][0]):
                best[key] = (decayed, action.action)
        ranked = sorted(best.items(), key=lambda pair: (-abs(pair[1][0]), pair[0]))
        return [
            BriefItem(
                action=action.value,
                title=self._plain(self._context.items[key].title),
                category=self._plain(leaf_name(self._context.items[key].category)),
                strength=round(strength, 2),
            )
            for key, (strength, action) in ranked[: self._config.items]
        ]

    def likes_now(self) -> list[BriefLike]:
        return self._likes(self._config.now_half_life_ms)

    def likes_long(self) -> list[BriefLike]:
        return self._likes(self._config.long_half_life_ms)

    def _likes(self, half_life_ms: int) -> list[BriefLike]:
        ranked: Sequence[tuple[str, float]] = category_affinities(
            self._context.behaviour,
            self._context.items,
            self._context.as_of_ms,
            AffinityConfig(half_life_ms=half_life_ms),
        )
        return [
            BriefLike(category=self._plain(leaf_name(category)), strength=round(strength, 2))
            for category, strength in ranked[: self._config.categories]
        ]

    def _decay(self, action: Behaviour) -> float:
        age_ms = max(0, self._context.as_of_ms - action.event_time_ms)
        return float(0.5 ** (age_ms / self._config.now_half_life_ms))

    def _plain(self, words: str) -> str:
        return plain(words, self._config.max_words)
