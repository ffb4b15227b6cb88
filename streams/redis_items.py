"""Item rows by key, and the popular items of a scenario (what a degraded answer is made of)."""

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
import redis.asyncio

from schemas.catalog import ItemRow
from streams.redis_epoch import require_epoch

_scenarios = msgspec.json.Decoder(list[str])
_FIELDS = ("item_id", "live", "title", "category", "brand", "price", "scenarios")


def item_key(key: int) -> str:
    """Returns the key of an item's hash."""
    return f"item:{key}"


def popular_key(scenario: str) -> str:
    """Returns the key of a scenario's popularity."""
    return f"popular:{scenario}"


class RedisItems:
    """Item rows (`agents.ports.ItemStore`); the catalog indexer alone writes them."""

    def __init__(self, client: redis.asyncio.Redis, *, restoring: bool = False) -> None:
        """`restoring`: no epoch is needed to write."""
        self._client = client
        self._restoring = restoring

    async def rows(self, item_keys: Sequence[int]) -> Mapping[int, ItemRow]:
        """Returns the rows that exist among `item_keys`, in one round trip."""
        if not item_keys:
            return {}
        async with self._client.pipeline(transaction=False) as pipeline:
            for key in item_keys:
                pipeline.hmget(item_key(key), _FIELDS)
            found = await pipeline.execute()
        pairs = zip(item_keys, found, strict=True)
        return {key: _row(key, values) for key, values in pairs if values[0] is not None}

    async def popular(self, scenario: str, count: int) -> list[int]:
        """Returns up to `count` item keys of the scenario by falling popularity."""
        if count <= 0:
            return []
        members = await self._client.zrevrange(popular_key(scenario), 0, count - 1)
        return [int(cast(bytes, member)) for member in members]

    async def put(self, rows: Sequence[ItemRow]) -> None:
        """Stores rows as they are now. Raises redis' errors, `EpochMissing` among them."""
        if not self._restoring:
            await require_epoch(self._client)
        async with self._client.pipeline(transaction=False) as pipeline:
            for row in rows:
                scenarios = row.scenarios
                pipeline.hset(
                    item_key(row.item_key),
                    mapping={
                        "item_id": row.item_id,
                        "live": int(row.live),
                        "title": row.title,
                        "category": row.category,
                        "brand": row.brand,
                        "price": b"" if row.price is None else repr(row.price),
                        "scenarios": b"" if scenarios is None else msgspec.json.encode(scenarios),
                    },
                )
            await pipeline.execute()

    async def take_down(self, item_keys: Sequence[int]) -> None:
        """Turns the live flag of items off; the rest of their rows stays. Raises as `put` does."""
        if not self._restoring:
            await require_epoch(self._client)
        async with self._client.pipeline(transaction=False) as pipeline:
            for key in item_keys:
                pipeline.hset(item_key(key), "live", "0")
            await pipeline.execute()


def _row(key: int, values: Sequence[bytes | None]) -> ItemRow:
    item_id, live, title, category, brand, price, scenarios = values
    return ItemRow(
        item_key=key,
        item_id=(item_id or b"").decode(),
        live=live == b"1",
        title=(title or b"").decode(),
        category=(category or b"").decode(),
        brand=(brand or b"").decode(),
        price=float(price) if price else None,
        scenarios=_scenarios.decode(scenarios) if scenarios else None,
    )
