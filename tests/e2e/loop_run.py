"""Runs the whole loop once on real servers, with kill -9 in the middle, and keeps the evidence."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import httpx
import msgspec
from rich.console import Console

from agents.artifact_folders import checkpoint_folder
from agents.demo.bring_up import GENERATION, BringUp
from agents.demo.edge_client import EdgeClient
from agents.demo.local_stack import environment_of, stack_spec
from agents.demo.preparation import Preparation
from agents.demo.source import Source, open_source
from agents.demo.traffic import Visit, now_ms
from agents.demo.view import DemoView
from agents.edge.action_intake import ActionsAnswer, Status
from agents.edge.recommendation_api import RecommendationAnswer
from agents.settings import Settings
from models.policy.step_log import StepLog
from schemas import topics
from schemas.actions import UserAction
from streams.local.scrape import TARGETS_FILE
from streams.local.stack import LocalStack
from streams.producer import RecordProducer
from streams.redis_client import worker_client
from streams.redis_history import RedisHistory
from streams.redis_instructions import RedisInstructions
from tests.e2e.evidence import Evidence, newest_of_each_user, read_logs
from tests.e2e.settings import loop_settings
from tests.streams.window_recount import recount

BATCH = 500
TURNS_PER_S = 12.0
KILL_AGGREGATOR_AFTER_S = 6.0
KILL_TRAINER_AT_STEP = 3
STOCK_WITHIN_S = 20.0
SERVED_AFTER_S = 6.0  # version 2 answers for a while
LONGEST_S = 150.0
DRAIN_S = 60.0
POISON = (b"{", b'{"schema":"user_action/1","event_id":"x"}', b'{"schema":"user_action/9"}')


class RecordingClient(EdgeClient):
    """The demo's client, which also keeps which ids were acknowledged and every answer."""

    def __init__(self, url: str, evidence: Evidence) -> None:
        super().__init__(url)
        self.evidence = evidence

    async def send(self, actions: Sequence[UserAction]) -> None:
        """Posts actions and remembers those that were acknowledged."""
        if not actions:
            return
        response = await self._http.post(
            "/v1/actions",
            content=msgspec.json.encode(list(actions)),
            headers={"content-type": "application/json"},
        )
        answer = msgspec.json.decode(response.content, type=ActionsAnswer)
        for action, result in zip(actions, answer.results, strict=True):
            if result.status is Status.ACCEPTED:
                self.evidence.acknowledged[action.event_id] = action
            else:
                self.evidence.failures.append(f"action {action.event_id}: {result}")

    async def patch_item(self, item_id: str, *, in_stock: bool) -> None:
        """Says whether an item is in stock, as a merchant does."""
        response = await self._http.patch(f"/v1/items/{item_id}", json={"in_stock": in_stock})
        response.raise_for_status()

    async def recommend(
        self, user_id: str, scenario: str, **more: str | None
    ) -> RecommendationAnswer | None:
        """Asks for a slate and keeps the answer, or what went wrong."""
        asked = {"user_id": user_id, "scenario": scenario}
        asked |= {name: value for name, value in more.items() if value is not None}
        try:
            response = await self._http.post("/v1/recommendations", json=asked)
            response.raise_for_status()
        except httpx.HTTPError as error:
            self.evidence.failures.append(f"recommendation: {error!r}")
            return None
        answer = msgspec.json.decode(response.content, type=RecommendationAnswer)
        self.evidence.answers.append(answer)
        return answer


def run_loop(home: Path) -> Evidence:
    """Fits a small generation, brings everything up, lets shoppers live, kills, drains."""
    settings = loop_settings(home)
    evidence = Evidence(settings=settings)
    until_ms = now_ms()
    source = open_source(None, 0, until_ms)
    view = DemoView(Console(quiet=True))
    with LocalStack(stack_spec(settings, report=view.say)) as stack:
        stack.watch()
        preparation = Preparation(
            home=stack.home,
            data=None,
            seed=0,
            until_ms=until_ms,
            environment=environment_of(settings),
        )
        with preparation:
            up = BringUp(stack, settings, preparation, view)
            up.servers_and_generation()
            up.catalogue(source.items(), source.profiles())
            up.first_version()
            evidence.settings, evidence.items = up.settings, len(source.items())
        asyncio.run(_Live(stack, up.settings, source, evidence).run())
    return evidence


class _Live:
    """The part with traffic."""

    def __init__(
        self, stack: LocalStack, settings: Settings, source: Source, evidence: Evidence
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._source = source
        self._evidence = evidence
        self._log = StepLog(checkpoint_folder(settings) / "steps.jsonl")
        self._stop = asyncio.Event()

    async def run(self) -> None:
        evidence = self._evidence
        async with RecordingClient(self._stack.addresses.http_url, evidence) as edge:
            past = self._source.remembered()
            for start in range(0, len(past), BATCH):
                await edge.send(past[start : start + BATCH])
            self._poison()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._shop(edge))
                group.create_task(self._disturb(edge))
        await self._drain()
        evidence.logs = await read_logs(self._settings.kafka)
        evidence.steps = self._log.read()
        await self._read_redis()
        await self._scrape()

    async def _shop(self, edge: EdgeClient) -> None:
        """Turns of all customers, one after another, at a steady rate."""
        visits = [Visit(c, edge, Random(c.user_id)) for c in self._source.customers()]
        async with asyncio.TaskGroup() as group:
            number = 0
            while not self._stop.is_set():
                group.create_task(visits[number % len(visits)].turn())
                number += 1
                await asyncio.sleep(1 / TURNS_PER_S)

    async def _disturb(self, edge: RecordingClient) -> None:
        """A change of stock, kill -9 of the aggregator and of the trainer, then waits until version
        2 has served.
        """
        started = time.monotonic()
        await self._change_stock(edge)
        await asyncio.sleep(KILL_AGGREGATOR_AFTER_S)
        self._kill("window-aggregator")
        while time.monotonic() - started < LONGEST_S:
            steps = self._log.read()
            if "policy-trainer" not in self._evidence.killed and len(steps) >= KILL_TRAINER_AT_STEP:
                self._kill("policy-trainer")
            if any(answer.policy_version == 2 for answer in self._evidence.answers[-5:]):
                await asyncio.sleep(SERVED_AFTER_S)
                break
            await asyncio.sleep(0.05)
        self._stop.set()

    async def _change_stock(self, edge: RecordingClient) -> None:
        """A merchant takes an item that is shown out of stock, and puts it in again."""
        first = await self._watch(edge, lambda answer: answer.degraded is None)
        self._evidence.stock_changes = [first]
        item = first.items[0].item_id
        for in_stock in (False, True):
            await edge.patch_item(item, in_stock=in_stock)
            offset = self._evidence.stock_changes[-1].index_offset or 0

            def followed(answer: RecommendationAnswer, offset: int = offset) -> bool:
                return (answer.index_offset or 0) > offset

            self._evidence.stock_changes.append(await self._watch(edge, followed))

    async def _watch(
        self, edge: RecordingClient, wanted: Callable[[RecommendationAnswer], bool]
    ) -> RecommendationAnswer:
        """Asks until an answer is as wanted."""
        async with asyncio.timeout(STOCK_WITHIN_S):
            while True:
                answer = await edge.recommend("stock-watcher", "home")
                if answer is not None and wanted(answer):
                    return answer

    def _kill(self, name: str) -> None:
        pid = self._stack.process(name).pid
        os.kill(pid, signal.SIGKILL)
        self._evidence.killed[name] = pid

    def _poison(self) -> None:
        with RecordProducer(self._settings.kafka, "oxygenrec-e2e") as producer:
            for value in POISON:
                producer.send(topics.ACTIONS, value, "poisoner")
        self._evidence.poison = list(POISON)

    async def _drain(self) -> None:
        """Waits until every window is due and closed, and every impression has its reward."""
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline:
            self._evidence.logs = await read_logs(self._settings.kafka)
            if self._windows_are_closed() and self._rewards_are_joined():
                return
            await asyncio.sleep(1.0)

    async def _scrape(self) -> None:
        """Asks every target of the stack's file, as a Prometheus would."""
        groups = msgspec.json.decode((self._stack.home / TARGETS_FILE).read_bytes())
        async with httpx.AsyncClient() as client:
            for group in groups:
                response = await client.get(f"http://{group['targets'][0]}/metrics")
                response.raise_for_status()
                self._evidence.metrics[group["labels"]["process"]] = response.text

    def _windows_are_closed(self) -> bool:
        triggered = {t.trigger_id for t in self._evidence.records(topics.INSTRUCTION_TRIGGERS)}
        written = {i.trigger_id for i in self._evidence.records(topics.INSTRUCTIONS)}
        acted = {
            record.event_id
            for partition in self._evidence.high_value()
            for record in partition
            if isinstance(record, UserAction)
        }
        counted, settled = set(), set()
        for partition in self._evidence.high_value():
            found = recount(partition, self._settings.windows)
            counted |= set(found.triggers)
            settled |= {event for events in found.triggers.values() for event in events}
            settled |= set(found.late)
        newest = newest_of_each_user(counted)
        return counted <= triggered and newest <= written and acted <= settled

    def _rewards_are_joined(self) -> bool:
        shown = {i.request_id for i in self._evidence.records(topics.IMPRESSIONS)}
        return shown <= {r.request_id for r in self._evidence.records(topics.REWARDS)}

    async def _read_redis(self) -> None:
        evidence = self._evidence
        async with worker_client(self._settings.redis) as client:
            history, instructions = RedisHistory(client), RedisInstructions(client)
            for user in {action.user_id for action in evidence.acknowledged.values()}:
                remembered = await history.recent(user, self._settings.router.history_length)
                evidence.history[user] = {action.event_id for action in remembered}
                found = await instructions.read(GENERATION, user)
                if found is not None:
                    evidence.in_force[user] = found.instruction_id
