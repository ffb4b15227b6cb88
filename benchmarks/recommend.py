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

from rich.console import Console

from agents.artifact_folders import checkpoint_folder
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
from models.policy.step_log import StepLog
from streams.local.stack import LocalStack

REQUESTS_PER_S = 20.0
SECONDS = 90.0
QUICK_SECONDS = 25.0
WARM_UP_S = 3.0  # connections open, the edge reads its first rows; not counted
PUBLISH_AFTER_SHARE = 0.4  # one publish, in the middle of the run
SEED = 0


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
        client = asyncio.run(_traffic(source, stack.addresses.http_url, seconds))
        steps = len(StepLog(checkpoint_folder(up.settings) / "steps.jsonl").read())
        server = stack.triton is not None
    return _report(client, steps=steps, server=server)


async def _traffic(source: Source, url: str, seconds: float) -> EdgeClient:
    """Open loop: a turn begins every 50 ms, however long the earlier ones take."""
    async with EdgeClient(url) as edge:
        past = source.remembered()
        for start in range(0, len(past), HISTORY_BATCH):
            await edge.send(past[start : start + HISTORY_BATCH])
        visits = [Visit(c, edge, Random(c.user_id)) for c in source.customers()]
        async with asyncio.TaskGroup() as group:
            began = time.monotonic()
            for number in range(int((WARM_UP_S + seconds) * REQUESTS_PER_S)):
                due_s = began + number / REQUESTS_PER_S
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(visits[number % len(visits)].turn())
        return edge


def _report(client: EdgeClient, *, steps: int, server: bool) -> dict[str, Any]:
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
        "generator": "Triton" if server else "in process",
    }
    show(
        f"recommendations at {REQUESTS_PER_S:g}/s, preset tiny, beam 50, {results['generator']}",
        ["figure", "value"],
        [[name, value] for name, value in results.items()],
    )
    if counts.last_version == counts.first_version:
        raise SystemExit("no version was published inside the run: nothing is shown about that")
    return results


if __name__ == "__main__":
    main()
