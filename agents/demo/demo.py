"""`oxygenrec demo`: the whole loop, from nothing to a policy that has learned, in minutes.

Servers start while a generation is trained; the catalogue flows through Kafka; version 1 is
published to Triton; simulated or replayed customers shop through the HTTP edge; a window closes, an
instruction is written, rewards are joined, version 2 is published under their traffic.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from agents.artifact_folders import checkpoint_folder, generation_folder
from agents.demo.bring_up import GENERATION, BringUp
from agents.demo.demo_settings import demo_settings
from agents.demo.live import LiveDemo
from agents.demo.local_stack import environment_of, stack_spec
from agents.demo.memory import PeakMemory
from agents.demo.observer import LogObserver, Seen
from agents.demo.preparation import Preparation
from agents.demo.source import Source, open_source
from agents.demo.summary import (
    ActionCounts,
    DemoIncomplete,
    RequestCounts,
    Summary,
    VersionPair,
    missing_in,
    percentile,
    write_summary,
)
from agents.demo.traffic import item_ids_of, now_ms
from agents.demo.view import DemoView
from agents.settings import Settings
from models.policy.step_log import StepLog, StepReport
from streams.local.stack import LocalStack

FOLDER = "demo"


def run_demo(settings: Settings, *, data: Path | None, summary: Path | None, seed: int) -> None:
    """Runs the demo and prints its summary.

    Raises `DataUnusable` before anything starts, `DemoIncomplete` when something did not happen.
    """
    view = DemoView(Console())
    home = Path(settings.paths.home) / FOLDER
    given = demo_settings(settings, str(home))
    until_ms = now_ms()
    source = open_source(data, seed, until_ms)
    view.say(f"{source.name}: {len(source.items())} items; everything runs below {home}")
    with LocalStack(stack_spec(given, report=view.say)) as stack:
        shutil.rmtree(generation_folder(given, GENERATION), ignore_errors=True)
        stack.watch()
        preparation = Preparation(
            home=stack.home,
            data=data,
            seed=seed,
            until_ms=until_ms,
            environment=environment_of(given),
        )
        with PeakMemory(lambda: [os.getpid()]) as memory, preparation:
            live, seen = _run(BringUp(stack, given, preparation, view), source, view, seed)
        broker = stack.kafka.kind if stack.kafka else "none"
        server = stack.triton is not None
        view.say("stopping everything")
    steps = StepLog(checkpoint_folder(given) / "steps.jsonl").read()
    found = _summary(live, seen, steps, broker=broker, server=server, seconds=view.seconds)
    _show(found, live, view, memory.peak_bytes)
    if summary is not None:
        write_summary(found, summary)
    if missing := missing_in(found, given.policy.publish_logprob_mismatch):
        raise DemoIncomplete(missing=[*missing, *live.edge.counts.complaints], home=home)


def _run(up: BringUp, source: Source, view: DemoView, seed: int) -> tuple[LiveDemo, Seen]:
    up.servers_and_generation()
    up.catalogue(source.items(), source.profiles())
    up.first_version()
    with LogObserver(up.settings.kafka) as observer:
        live = LiveDemo(source, up.stack.addresses.http_url, observer, view)
        asyncio.run(live.run(seed))
        time.sleep(1.0)  # the observer reads what was written last
    return live, observer.seen


def _summary(
    live: LiveDemo,
    seen: Seen,
    steps: Sequence[StepReport],
    *,
    broker: str,
    server: bool,
    seconds: float,
) -> Summary:
    counts, story = live.edge.counts, live.story
    return Summary(
        broker=broker,
        triton="server" if server else "in-process",
        seconds=round(seconds, 1),
        actions=ActionCounts(sent=counts.sent, acknowledged=counts.acknowledged),
        windows_closed=len(seen.windows),
        instructions_written=len(seen.instructed),
        requests=RequestCounts(
            total=counts.total,
            failed=counts.failed,
            degraded=counts.degraded,
            p50_ms=percentile(counts.latencies_ms, 0.5),
            p99_ms=percentile(counts.latencies_ms, 0.99),
        ),
        reward_groups=sum(len(step.request_ids) for step in steps),
        policy_version=VersionPair(before=counts.first_version, after=counts.last_version),
        slate_before=item_ids_of(story.before) if story and story.before else [],
        slate_after=item_ids_of(story.after) if story and story.after else [],
        logprob_mismatch_max=max((step.logprob_mismatch_max for step in steps), default=None),
    )


def _show(summary: Summary, live: LiveDemo, view: DemoView, peak_bytes: int) -> None:
    requests, version = summary.requests, summary.policy_version
    if summary.broker != "kafka":
        view.say("NO DURABILITY: the embedded broker ran in Kafka's place")
    if summary.triton != "server":
        view.say("NO TRITON: the generator ran inside the edge's process")
    view.say(f"{summary.actions.acknowledged} of {summary.actions.sent} actions acknowledged")
    view.say(f"{summary.windows_closed} windows, {summary.instructions_written} instructions")
    view.say(
        f"{requests.total} slates, {requests.failed} failed, {requests.degraded} degraded,"
        f" p50 {requests.p50_ms} ms, p99 {requests.p99_ms} ms"
    )
    view.say(
        f"{summary.reward_groups} reward groups; policy {version.before} -> {version.after};"
        f" served and recomputed log-probs differ by at most {summary.logprob_mismatch_max}"
    )
    view.say(f"{summary.seconds} s, at most {peak_bytes / 2**30:.2f} GiB over all processes")
