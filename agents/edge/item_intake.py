"""Takes items in: `catalog` is what merchants say, and Kafka's acknowledgement comes first.

From there the catalog indexer writes the item's row in Redis (the edge filters by it at once) and
its assignment in `semantic-ids`, which every generator replica follows.
"""

from collections.abc import Callable, Sequence

from agents.edge.acknowledgement import Acknowledged
from agents.edge.http_bodies import checked_id
from agents.edge.item_api import (
    DeletionAnswer,
    ItemShown,
    item_of,
    merged,
    patch_of,
    shown,
)
from agents.ports import ItemStore
from schemas import topics
from schemas.catalog import ItemRow, ItemUpsert, item_key_of
from schemas.errors import OxygenRecError


class UnknownCatalogueItem(OxygenRecError):
    """An item that the catalogue does not hold, or not yet."""

    def __init__(self, *, item_id: str) -> None:
        self.item_id = item_id
        super().__init__(f"item {item_id}: not in the catalogue; PUT it whole first")


class ItemIntake:
    """One item a call; a repeat changes nothing."""

    def __init__(
        self,
        *,
        acknowledged: Acknowledged,
        items: ItemStore,
        scenarios: Sequence[str],
        now_ms: Callable[[], int],
    ) -> None:
        self._acknowledged = acknowledged
        self._items = items
        self._scenarios = scenarios
        self._now_ms = now_ms

    async def get(self, item_id: str) -> ItemShown:
        """Returns the item. Raises `UnknownCatalogueItem`, `InvalidRecord`, redis' errors."""
        return shown(await self._known(checked_id("item_id", item_id)))

    async def put(self, item_id: str, body: bytes) -> ItemUpsert:
        """Returns the item as it was sent. Raises `InvalidRecord`, `NotAcknowledged`."""
        item_id = checked_id("item_id", item_id)
        return await self._sent(item_of(item_id, body, self._now_ms(), self._scenarios))

    async def patch(self, item_id: str, body: bytes) -> ItemUpsert:
        """Returns what Redis holds with the changes, as it was sent.

        Two patches within the indexer's delay both see the older item: the later one keeps nothing
        of the first. A deleted item comes back when a patch puts it in stock. Raises as `put` and
        `get`.
        """
        patch = patch_of(body, self._scenarios)
        known = await self._known(checked_id("item_id", item_id))
        return await self._sent(merged(known, patch, self._now_ms()))

    async def delete(self, item_id: str) -> DeletionAnswer:
        """Takes an item away, known or not. Raises `InvalidRecord`, `NotAcknowledged`."""
        item_id = checked_id("item_id", item_id)
        await self._acknowledged(topics.CATALOG, None, item_id)
        return DeletionAnswer(item_id=item_id, deleted_ms=self._now_ms())

    async def _known(self, item_id: str) -> ItemRow:
        key = item_key_of(item_id)
        row = (await self._items.rows([key])).get(key)
        if row is None or row.item_id != item_id:
            raise UnknownCatalogueItem(item_id=item_id)
        return row

    async def _sent(self, item: ItemUpsert) -> ItemUpsert:
        await self._acknowledged(topics.CATALOG, item, item.item_id)
        return item
