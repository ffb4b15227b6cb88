"""How long after the edge's 202 is a stock change on the slates, through real Kafka and Triton?

The whole loop runs as in the demo, shoppers ask 20 times a second. A merchant takes the first item
of a watcher's slate out of stock, the watcher asks again and again until a slate comes without it;
then it is put in again, and the watcher waits for it. Each time ends when the slate's answer is
there. Out: the item's row in Redis is enough. In: the replica's index has to have followed.
--quick: 8 changes of each kind, not 40.
"""

import asyncio
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from agents.demo.demo_settings import demo_settings
from agents.demo.edge_client import EdgeClient
from agents.demo.source import Source
from agents.demo.summary import percentile
from agents.demo.traffic import Visit
from agents.settings import Settings
from benchmarks.live_shop import LiveShop, live_shop
from benchmarks.report import finish, parser, show

REQUESTS_PER_S = 20.0
CHANGES = 40
QUICK_CHANGES = 8
LONGEST_S = 15.0
WATCHER, SCENARIO = "stock-watcher", "home"
WARM_UP_S = 3.0


def main() -> None:
    """Prints the delays of stock out and stock in."""
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        results = _measure(Path(folder), QUICK_CHANGES if given.quick else CHANGES)
    finish("stock_change", results, started=started, path=given.json)


def _measure(home: Path, changes: int) -> dict[str, Any]:
    settings = demo_settings(Settings(), str(home))
    with live_shop(settings) as shop:
        delays = asyncio.run(_live(shop, changes))
    return _report(delays, shop.generator)


async def _live(shop: LiveShop, changes: int) -> dict[str, list[float]]:
    url = shop.stack.addresses.http_url
    async with EdgeClient(url) as edge, httpx.AsyncClient(base_url=url, timeout=10) as merchant:
        await shop.remember(edge)
        shopping = asyncio.create_task(_shop(shop.source, edge))
        await asyncio.sleep(WARM_UP_S)
        delays: dict[str, list[float]] = {"stock out": [], "stock in": []}
        try:
            for _ in range(changes):
                item = (await _slate(edge))[0]
                for kind, there in (("stock out", False), ("stock in", True)):
                    delays[kind].append(await _change(edge, merchant, item, in_stock=there))
        finally:
            shopping.cancel()
        return delays


async def _shop(source: Source, edge: EdgeClient) -> None:
    visits = [Visit(c, edge, Random(c.user_id)) for c in source.customers()]
    async with asyncio.TaskGroup() as group:
        began, number = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, began + number / REQUESTS_PER_S - time.monotonic()))
            group.create_task(visits[number % len(visits)].turn())
            number += 1


async def _slate(edge: EdgeClient) -> list[str]:
    answer = await edge.recommend(WATCHER, SCENARIO)
    if answer is None or answer.degraded is not None:
        return []
    return [item.item_id for item in answer.items]


async def _change(
    edge: EdgeClient, merchant: httpx.AsyncClient, item: str, *, in_stock: bool
) -> float:
    """Returns ms from the 202 to the first slate that knows of the change."""
    response = await merchant.patch(f"/v1/items/{item}", json={"in_stock": in_stock})
    if response.status_code != 202:
        raise SystemExit(f"PATCH /v1/items/{item}: found {response.status_code}, wanted 202")
    acknowledged = time.perf_counter()
    while time.perf_counter() - acknowledged < LONGEST_S:
        slate = await _slate(edge)
        if slate and (item in slate) is in_stock:
            return (time.perf_counter() - acknowledged) * 1e3
    raise SystemExit(f"item {item}: in_stock {in_stock} is on no slate after {LONGEST_S:g} s")


def _report(delays: dict[str, list[float]], generator: str) -> dict[str, Any]:
    results = {
        kind: {
            "changes": len(ms),
            "p50_ms": percentile(ms, 0.5),
            "p99_ms": percentile(ms, 0.99),
            "max_ms": percentile(ms, 1.0),
        }
        for kind, ms in delays.items()
    }
    figures = list(next(iter(results.values())))
    show(
        f"from 202 to the first slate, {REQUESTS_PER_S:g} requests/s beside it, {generator}",
        ["figure", *results],
        [[name, *(f"{found[name]:,.1f}" for found in results.values())] for name in figures],
    )
    return {**results, "generator": generator}


if __name__ == "__main__":
    main()
