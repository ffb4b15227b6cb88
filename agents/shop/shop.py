"""A simulated shop: a catalogue, shoppers with hidden intents, and the past they have lived.

The same model makes the offline log (`past`) and the live shoppers of the demo. Everything follows
from the seed and the times handed in; nothing here knows a server.
"""

from collections.abc import Iterable, Sequence
from random import Random

from agents.shop.catalogue import catalogue
from agents.shop.climate import CITIES
from agents.shop.shelves import Shelves
from agents.shop.shoppers import Shopper
from schemas.actions import UserAction
from schemas.catalog import ItemUpsert
from schemas.topics import DAY_MS

AGE_BANDS = ("18-24", "25-34", "35-49", "50-64", "65+")


class Shop:
    """One shop, fully determined by its seed."""

    def __init__(self, seed: int = 0, opened_ms: int = 0) -> None:
        self._seed = seed
        self._items = catalogue(Random(f"{seed}:catalogue"), opened_ms)
        self._shelves = Shelves(self._items, Random(f"{seed}:shelves"))

    def catalogue(self) -> list[ItemUpsert]:
        """Returns every item, about 600 in 32 leaf categories."""
        return list(self._items)

    def shoppers(self, numbers: Iterable[int]) -> list[Shopper]:
        """Returns the shoppers with these numbers, newly born; same number, same person."""
        return [self._shopper(number) for number in numbers]

    def past(self, shoppers: Sequence[Shopper], *, until_ms: int, days: int) -> list[UserAction]:
        """Lets the shoppers live `days` up to `until_ms` and returns what they did, by time.

        They end in the state they reached: one who was in the middle of a search still is.
        """
        actions: list[UserAction] = []
        for shopper in shoppers:
            spread = Random(f"{self._seed}:{shopper.user_id}:first").random()
            shopper.due_ms = until_ms - int((days - spread) * DAY_MS)
            actions += shopper.advance(until_ms)
        return sorted(actions, key=lambda action: (action.event_time_ms, action.event_id))

    def _shopper(self, number: int) -> Shopper:
        rng = Random(f"{self._seed}:shopper:{number}")
        return Shopper(
            f"shopper-{number:05d}",
            city=rng.choice(CITIES),
            age_band=rng.choice(AGE_BANDS),
            shelves=self._shelves,
            rng=rng,
            seed=self._seed,
        )
