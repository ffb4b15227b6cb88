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
from rich.console import Console

from agents.demo.bring_up import BringUp
from agents.demo.demo_settings import demo_settings
from agents.demo.edge_client import EdgeClient
from agents.demo.live import HISTORY_BATCH
from agents.demo.local_stack import environment_of, stack_spec
from agents.demo.preparation import Preparation
from agents.demo.source import Source, open_source
from agents.demo.summary import percentile
from agents.demo.traffic import Visit, now_ms
from agents.demo.view import DemoView
from agents.settings import Settings
from benchmarks.report import finish, parser, show
from streams.local.stack import LocalStack

REQUESTS_PER_S = 20.0
CHANGES = 40
QUICK_CHANGES = 8
LONGEST_S = 15.0
WATCHER, SCENARIO = "stock-watcher", "home"
WARM_UP_S = 3.0
SEED = 0


def main() -> None:
    """Prints the delays of stock out and stock in."""
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        results = _measure(Path(folder), QUICK_CHANGES if given.quick else CHANGES)
    finish("stock_change", results, started=started, path=given.json)


def _measure(home: Path, changes: int) -> dict[str, Any]:
    settings = demo_settings(Settings(), str(home))
    until_ms = now_ms()
    source = open_source(None, SEED, until_ms)
    view = DemoView(Console(stderr=True))
    with LocalStack(stack_spec(settings, report=view.say)) as stack:
        stack.watch()
        preparation = Preparation(
            home=stack.home,
            data=None,
            seed=SEED,
            until_ms=until_ms,
            environment=environment_of(settings),
        )
        with preparation:
            up = BringUp(stack, settings, preparation, view)
            up.servers_and_generation()
            up.catalogue(source.items(), source.profiles())
            up.first_version()
        delays = asyncio.run(_live(source, stack.addresses.http_url, changes))
        server = "Triton" if stack.triton is not None else "in process"
    return _report(delays, server)


async def _live(source: Source, url: str, changes: int) -> dict[str, list[float]]:
    async with EdgeClient(url) as edge, httpx.AsyncClient(base_url=url, timeout=10) as merchant:
        past = source.remembered()
        for start in range(0, len(past), HISTORY_BATCH):
            await edge.send(past[start : start + HISTORY_BATCH])
        shopping = asyncio.create_task(_shop(source, edge))
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


def _report(delays: dict[str, list[float]], server: str) -> dict[str, Any]:
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
        f"from 202 to the first slate, {REQUESTS_PER_S:g} requests/s beside it, {server}",
        ["figure", *results],
        [[name, *(f"{found[name]:,.1f}" for found in results.values())] for name in figures],
    )
    return {**results, "generator": server}


if __name__ == "__main__":
    main()
