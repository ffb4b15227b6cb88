"""Item rows by key, and the popular items of a scenario (what a degraded answer is made of)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
import redis.asyncio

from schemas.catalog import ItemRow
from streams.redis_epoch import Epochs
from streams.redis_keys import buckets_of, item_key, popular_key

_scenarios = msgspec.json.Decoder(list[str])
# How far down each bucket of a cluster counts, for every item that is asked for. An item's users
# lie in all buckets alike: what is among the first in all of it is near the first in each.
DEPTH = 2
_FIELDS = ("item_id", "live", "title", "category", "brand", "price", "scenarios")


class RedisItems:
    """Item rows (`agents.ports.ItemStore`); the catalog indexer alone writes them."""

    def __init__(self, client: redis.asyncio.Redis, *, restoring: bool = False) -> None:
        """`restoring`: no epoch is needed to write."""
        self._client = client
        self._restoring = restoring
        self._buckets = buckets_of(client)
        self._epochs = Epochs(client)

    async def rows(self, item_keys: Sequence[int]) -> Mapping[int, ItemRow]:
        """Returns the rows that exist among `item_keys`, in one round trip."""
        if not item_keys:
            return {}
        async with self._client.pipeline(transaction=False) as pipeline:
            for key in item_keys:
                pipeline.hmget(self._place(key), _FIELDS)
            found = await pipeline.execute()
        pairs = zip(item_keys, found, strict=True)
        return {key: _row(key, values) for key, values in pairs if values[0] is not None}

    async def popular(self, scenario: str, count: int) -> list[int]:
        """Returns up to `count` item keys of the scenario by falling popularity.

        In a cluster an item counts in each bucket only while it is among the first `DEPTH * count`
        there, so that ranks near the end may be off.
        """
        if count <= 0:
            return []
        if len(self._buckets.tags) > 1:
            return await self._popular_in_all(scenario, count)
        members = await self._client.zrevrange(popular_key(scenario), 0, count - 1)
        return [int(cast(bytes, member)) for member in members]

    async def _popular_in_all(self, scenario: str, count: int) -> list[int]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for tag in self._buckets.tags:
                key = tag + popular_key(scenario)
                pipeline.zrevrange(key, 0, DEPTH * count - 1, withscores=True)
            found = await pipeline.execute()
        weights: defaultdict[bytes, float] = defaultdict(float)
        for partial in found:
            for member, weight in partial:
                weights[member] += weight
        # As one server sorts: by weight, then by the member's bytes.
        first = sorted(weights, key=lambda member: (weights[member], member), reverse=True)
        return [int(member) for member in first[:count]]

    async def put(self, rows: Sequence[ItemRow]) -> None:
        """Stores rows as they are now. Raises redis' errors, `EpochMissing` among them."""
        await self._require_epochs([row.item_key for row in rows])
        async with self._client.pipeline(transaction=False) as pipeline:
            for row in rows:
                scenarios = row.scenarios
                pipeline.hset(
                    self._place(row.item_key),
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
        await self._require_epochs(item_keys)
        async with self._client.pipeline(transaction=False) as pipeline:
            for key in item_keys:
                pipeline.hset(self._place(key), "live", "0")
            await pipeline.execute()

    def _place(self, key: int) -> str:
        return self._buckets.tag(str(key)) + item_key(key)

    async def _require_epochs(self, item_keys: Sequence[int]) -> None:
        if not self._restoring:
            await self._epochs.require({self._buckets.tag(str(key)) for key in item_keys})


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
