"""Popular items of a scenario: what a degraded answer is made of, also while Redis is gone.

A background task reads every scenario's list every few seconds. A request reads anew only the rows
it needs: while the generator is late everywhere, each degraded answer must cost less than a whole
one, or the edge would be late because it is degraded.
"""

import asyncio
from collections.abc import Sequence, Set
from contextlib import suppress

from agents.edge.redis_deadline import Degraded, redis_within
from agents.ports import ItemStore
from schemas.catalog import ItemRow

REFRESH_S = 5.0
REFRESH_TIMEOUT_MS = 1_000  # nobody waits for a refresh
KEPT = 150  # the largest slate (50) after as many exclusions and items without stock
PORTION = 25  # rows read at once: 2 ms of the loop, which requests share
SPARE = 5  # a few may have gone since the list was read


def shown_in(row: ItemRow, scenario: str) -> bool:
    """Returns whether an item may be shown: live, and not kept off this scenario."""
    return row.live and (row.scenarios is None or scenario in row.scenarios)


class PopularItems:
    """Live popular items by scenario: the order of a few seconds ago, the rows of now."""

    def __init__(self, items: ItemStore, scenarios: Sequence[str]) -> None:
        self._items = items
        self._scenarios = tuple(scenarios)
        self._last: dict[str, list[ItemRow]] = {}

    async def read(
        self, scenario: str, count: int, exclude: Set[int], timeout_ms: int
    ) -> list[ItemRow]:
        """Returns up to `count` live items by falling popularity.

        Those last seen where Redis is late or gone, or where no time is left (`timeout_ms` <= 0).
        """
        known = [row for row in self._last.get(scenario, []) if row.item_key not in exclude]
        if timeout_ms > 0:
            keys = [row.item_key for row in known[: count + SPARE]]
            with suppress(Degraded):
                known = await redis_within(timeout_ms, self._live(scenario, keys, count, exclude))
        return known[:count]

    async def refresh(self, scenario: str) -> None:
        """Reads a scenario's list and its rows; the old one stays where Redis does not answer."""
        with suppress(Degraded):
            keys = await redis_within(REFRESH_TIMEOUT_MS, self._items.popular(scenario, KEPT))
            live: list[ItemRow] = []
            for start in range(0, len(keys), PORTION):
                rows = self._rows(scenario, keys[start : start + PORTION])
                live += await redis_within(REFRESH_TIMEOUT_MS, rows)
            self._last[scenario] = live

    async def refresh_forever(self) -> None:
        """Reads every scenario's list again and again, until cancelled."""
        while True:
            for scenario in self._scenarios:
                await self.refresh(scenario)
            await asyncio.sleep(REFRESH_S)

    async def _live(
        self, scenario: str, keys: list[int], count: int, exclude: Set[int]
    ) -> list[ItemRow]:
        if not keys:  # nothing was seen yet
            found = await self._items.popular(scenario, count + SPARE + len(exclude))
            keys = [key for key in found if key not in exclude]
        return await self._rows(scenario, keys)

    async def _rows(self, scenario: str, keys: Sequence[int]) -> list[ItemRow]:
        rows = await self._items.rows(keys)
        found = [rows[key] for key in keys if key in rows]
        return [row for row in found if shown_in(row, scenario)]
