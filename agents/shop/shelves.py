"""What a simulated shopper can look through: items by leaf, as the shop shows them."""

from collections.abc import Sequence
from random import Random

from agents.shop.catalogue import LEAVES, Leaf
from schemas.catalog import ItemUpsert

EXAMINES_NEXT = 0.88  # a shopper who looked at one position goes on to the next: position bias
PAGE = 8


class Shelves:
    """Items by category, most popular first. Popularity is fixed when the shop opens."""

    def __init__(self, items: Sequence[ItemUpsert], rng: Random) -> None:
        self.items = {item.item_id: item for item in items}
        self.leaves = {leaf.category: leaf for leaf in LEAVES}
        self._appeal = {item.item_id: rng.paretovariate(2.0) for item in items}
        self._by_leaf: dict[str, list[ItemUpsert]] = {}
        for item in sorted(items, key=lambda item: -self._appeal[item.item_id]):
            self._by_leaf.setdefault(item.category, []).append(item)

    def leaf_of(self, item_id: str) -> Leaf | None:
        """Returns the leaf of an item, None for an item that this shop does not know."""
        item = self.items.get(item_id)
        return self.leaves[item.category] if item else None

    def page(self, category: str, rng: Random) -> list[ItemUpsert]:
        """Returns one page of the category as the shop shows it: popular items tend to lead."""
        stocked = [item for item in self._by_leaf[category] if item.in_stock]
        ranked = sorted(
            stocked, key=lambda item: self._appeal[item.item_id] * rng.random(), reverse=True
        )
        return ranked[:PAGE]


def examined(length: int, rng: Random) -> int:
    """Returns how many positions of a list are looked at: at least one, fewer and fewer below."""
    count = 1
    while count < length and rng.random() < EXAMINES_NEXT:
        count += 1
    return min(count, length)
