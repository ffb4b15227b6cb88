"""How long does a recommendation take, HTTP -> Redis -> Triton, while the policy learns?

The whole loop runs as in the demo (preset tiny, beam 50); simulated shoppers ask 20 times a second,
each at its scheduled time whether or not earlier answers are there, and react, so that the trainer
steps and a version is published inside the run. --quick: 25 s of traffic, not 90.
"""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from agents.artifact_folders import checkpoint_folder
from agents.demo.demo_settings import demo_settings
from agents.demo.edge_client import EdgeClient
from agents.demo.summary import percentile
from agents.demo.traffic import Visit
from agents.settings import Settings
from benchmarks.live_shop import LiveShop, live_shop
from benchmarks.report import finish, parser, show
from models.policy.step_log import StepLog

REQUESTS_PER_S = 20.0
SECONDS = 90.0
QUICK_SECONDS = 25.0
WARM_UP_S = 3.0  # connections open, the edge reads its first rows; not counted
PUBLISH_AFTER_SHARE = 0.4  # one publish, in the middle of the run


def main() -> None:
    """Prints latencies by policy version, and what the trainer did meanwhile."""
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        results = _measure(Path(folder), QUICK_SECONDS if given.quick else SECONDS)
    finish("recommend", results, started=started, path=given.json)


def _measure(home: Path, seconds: float) -> dict[str, Any]:
    settings = demo_settings(Settings(), str(home))
    groups = int(REQUESTS_PER_S * seconds * PUBLISH_AFTER_SHARE)  # nearly every slate is a group
    steps = groups // settings.policy.groups_per_step
    settings = replace(settings, policy=replace(settings.policy, steps_per_publish=steps))
    with live_shop(settings) as shop:
        client = asyncio.run(_traffic(shop, seconds))
        steps = len(StepLog(checkpoint_folder(shop.settings) / "steps.jsonl").read())
    return _report(client, steps=steps, generator=shop.generator)


async def _traffic(shop: LiveShop, seconds: float) -> EdgeClient:
    """Open loop: a turn begins every 50 ms, however long the earlier ones take."""
    async with EdgeClient(shop.stack.addresses.http_url) as edge:
        await shop.remember(edge)
        visits = [Visit(c, edge, Random(c.user_id)) for c in shop.source.customers()]
        async with asyncio.TaskGroup() as group:
            began = time.monotonic()
            for number in range(int((WARM_UP_S + seconds) * REQUESTS_PER_S)):
                due_s = began + number / REQUESTS_PER_S
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(visits[number % len(visits)].turn())
        return edge


def _report(client: EdgeClient, *, steps: int, generator: str) -> dict[str, Any]:
    counts = client.counts
    counted = counts.latencies_ms[int(WARM_UP_S * REQUESTS_PER_S) :]
    results = {
        "requests": len(counted),
        "failed": counts.failed,
        "degraded": counts.degraded,
        "p50_ms": percentile(counted, 0.5),
        "p90_ms": percentile(counted, 0.9),
        "p99_ms": percentile(counted, 0.99),
        "max_ms": percentile(counted, 1.0),
        "trainer_steps": steps,
        "policy_version_before": counts.first_version,
        "policy_version_after": counts.last_version,
        "generator": generator,
    }
    show(
        f"recommendations at {REQUESTS_PER_S:g}/s, preset tiny, beam 50, {generator}",
        ["figure", "value"],
        [[name, value] for name, value in results.items()],
    )
    if counts.last_version == counts.first_version:
        raise SystemExit("no version was published inside the run: nothing is shown about that")
    return results


if __name__ == "__main__":
    main()
