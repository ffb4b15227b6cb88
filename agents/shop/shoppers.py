"""One simulated shopper: a latent intent, words first, then looking, carting and ordering.

The intent is drawn from lasting tastes, season and weather, and it is new at the moment of a
search: nothing the shopper clicked before shows it. Only `advance`, `next_actions` and `react`
move the shopper; the clock and the random generator are handed in.
"""

from dataclasses import dataclass
from random import Random

from agents.shop.catalogue import LEAVES, Leaf, query_for
from agents.shop.climate import City, weather_of
from agents.shop.shelves import Shelves, examined
from models.reasoning.surroundings import season_of
from schemas.actions import ActionContext, ActionType, UserAction
from schemas.catalog import ItemUpsert
from schemas.topics import DAY_MS
from schemas.users import UserProfile

SEARCH_SHARE = 0.65  # intents that begin with words
TASTE_SHARE_SEARCHING = 0.25  # people search for what is new to them ...
TASTE_SHARE_BROWSING = 0.65  # ... and browse what they always like
TASTE_DRIFT = 0.15  # probability that one of four tastes changes with an intent
DAYS_BETWEEN_INTENTS = 3.0
SCENARIO_SHARES = {"home": 0.75, "search": 0.15, "detail": 0.10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the shop an item was met: the scenario and, for a recommended slate, the slot."""

    scenario: str
    request_id: str | None = None
    position: int | None = None


@dataclass(slots=True)
class Intent:
    """What the shopper is after, and how many more looks it will take."""

    leaf: Leaf
    looks_left: int
    searched: bool
    looked: bool = False


class Shopper:
    """A customer with lasting tastes that drift, and one intent at a time."""

    def __init__(
        self, user_id: str, *, city: City, age_band: str, shelves: Shelves, rng: Random, seed: int
    ) -> None:
        self.user_id = user_id
        self.city = city
        self.age_band = age_band
        self._shelves = shelves
        self._rng = rng
        self._seed = seed
        self._tastes = rng.sample(LEAVES, 4)
        self._brands: dict[str, float] = {}
        self._thrift = rng.random()
        self._intent: Intent | None = None
        self._sent = 0
        self._last_ms = 0
        self.due_ms = 0  # when the next step of `advance` is taken

    @property
    def profile(self) -> UserProfile:
        return UserProfile(user_id=self.user_id, city=self.city.name, age_band=self.age_band)

    @property
    def wanted_category(self) -> str | None:
        """The category looked for, None between two intents. Nobody but the shopper knows it."""
        return self._intent.leaf.category if self._intent and self._looking else None

    @property
    def at_fresh_search(self) -> bool:
        """Words were said and nothing was looked at since: history does not show the intent yet."""
        return self._intent is not None and self._intent.searched and not self._intent.looked

    @property
    def _looking(self) -> bool:
        return self._intent is not None and self._intent.looks_left > 0

    def advance(self, until_ms: int) -> list[UserAction]:
        """Lives up to `until_ms` (exclusive): minutes between looks, days between intents."""
        actions: list[UserAction] = []
        while self.due_ms < until_ms:
            actions += self.next_actions(self.due_ms)
            self.due_ms += self._pause_ms()
        return actions

    def next_actions(self, now_ms: int) -> list[UserAction]:
        """Takes the next step by itself: a new intent (perhaps in words) or a look at a shelf."""
        if self._intent is None or not self._looking:
            return self._begin(now_ms)
        self._intent.looks_left -= 1
        page = self._shelves.page(self._intent.leaf.category, self._rng)
        seen = page[: examined(len(page), self._rng)]
        chosen = max(seen, key=lambda item: self._fit(item) * self._rng.random())
        scenario = self._rng.choices(list(SCENARIO_SHARES), list(SCENARIO_SHARES.values()))[0]
        if scenario == "search" and not self._intent.searched:
            scenario = "home"  # nobody gets search results without words
        return self._take(chosen, now_ms, Place(scenario=scenario))

    def react(
        self, item_ids: list[str], request_id: str, now_ms: int, scenario: str = "home"
    ) -> list[UserAction]:
        """Looks down a slate, from the top and not always to its end, and takes what fits."""
        actions: list[UserAction] = []
        for position in range(examined(len(item_ids), self._rng) if item_ids else 0):
            item = self._shelves.items.get(item_ids[position])
            if item is None:
                continue
            place = Place(scenario=scenario, request_id=request_id, position=position)
            actions.append(self._action(ActionType.EXPOSE, now_ms, place, item=item))
            if self._rng.random() < self._interest(item):
                actions += self._take(item, now_ms, place)
        return actions

    def _pause_ms(self) -> int:
        if not self._looking:
            return int(self._rng.expovariate(1 / DAYS_BETWEEN_INTENTS) * DAY_MS) + 600_000
        if self.at_fresh_search:  # reads on, compares elsewhere, comes back
            return int(self._rng.uniform(20_000, 600_000))
        return int(self._rng.uniform(15_000, 180_000))

    def _begin(self, now_ms: int) -> list[UserAction]:
        searches = self._rng.random() < SEARCH_SHARE
        if self._rng.random() < TASTE_DRIFT:
            self._tastes[self._rng.randrange(len(self._tastes))] = self._rng.choice(LEAVES)
        share = TASTE_SHARE_SEARCHING if searches else TASTE_SHARE_BROWSING
        tasteful = self._rng.random() < share
        leaf = self._rng.choice(self._tastes) if tasteful else self._leaf_for(now_ms)
        self._intent = Intent(leaf=leaf, looks_left=self._rng.randint(3, 8), searched=searches)
        if not searches:
            return self.next_actions(now_ms)
        query = query_for(leaf, self._rng)
        return [self._action(ActionType.SEARCH, now_ms, Place(scenario="search"), query=query)]

    def _leaf_for(self, now_ms: int) -> Leaf:
        season = season_of(now_ms, self.city.name, self.city.tz)
        weather = weather_of(self._seed, self.city, now_ms)
        weights = [
            leaf.occasions.get(season, 1.0) * leaf.occasions.get(weather, 1.0) for leaf in LEAVES
        ]
        return self._rng.choices(LEAVES, weights)[0]

    def _take(self, item: ItemUpsert, now_ms: int, place: Place) -> list[UserAction]:
        """Clicks, and perhaps goes on to cart, favourite and order; an order ends the intent."""
        kinds = [ActionType.CLICK]
        if self._rng.random() < 0.12:
            kinds.append(ActionType.FAVORITE)
        if self._rng.random() < 0.15 + 0.25 * self._fit(item):
            kinds.append(ActionType.CART)
            if self._rng.random() < 0.4:
                kinds.append(ActionType.ORDER)
        if self._intent is not None and item.category == self._intent.leaf.category:
            self._intent.looked = True
            if ActionType.ORDER in kinds:
                self._intent.looks_left = 0
        return [self._action(kind, now_ms, place, item=item) for kind in kinds]

    def _interest(self, item: ItemUpsert) -> float:
        """Probability that an examined item is clicked: wanted, near what is wanted, or liked."""
        leaf = self._shelves.leaves[item.category]
        if self._intent is not None and leaf is self._intent.leaf:
            return 0.35 + 0.4 * self._fit(item)
        if self._intent is not None and leaf.department == self._intent.leaf.department:
            return 0.08
        return 0.06 if leaf in self._tastes else 0.01

    def _fit(self, item: ItemUpsert) -> float:
        """How well an item of the right category suits the shopper: brand and price, 0.1 to 1."""
        brand = self._brands.setdefault(item.brand, self._rng.random())
        low, high = self._shelves.leaves[item.category].prices
        cheap = 1.0 - ((item.price or low) - low) / (high - low)
        return max(0.1, 0.6 * brand + 0.4 * (self._thrift * cheap + (1 - self._thrift) * 0.5))

    def _action(
        self,
        kind: ActionType,
        now_ms: int,
        place: Place,
        *,
        item: ItemUpsert | None = None,
        query: str | None = None,
    ) -> UserAction:
        """Builds the record; a millisecond or more between two, so that their order is kept."""
        self._sent += 1
        self._last_ms = max(now_ms, self._last_ms + 1)
        weather = weather_of(self._seed, self.city, now_ms)
        return UserAction(
            event_id=f"{self.user_id}-{now_ms}-{self._sent}",
            user_id=self.user_id,
            action=kind,
            event_time_ms=self._last_ms,
            scenario=place.scenario,
            item_id=item.item_id if item else None,
            query=query,
            request_id=place.request_id,
            position=place.position,
            quantity=1 if kind is ActionType.ORDER else None,
            price=item.price if item and kind is ActionType.ORDER else None,
            context=ActionContext(city=self.city.name, tz=self.city.tz, weather=weather),
        )
