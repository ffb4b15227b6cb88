"""Publishing into a real Triton while a client keeps asking: no request fails, no version mixes."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
import torch

from agents.cli_probe import GeneratorDead, show_probe
from agents.policy_announcements import PolicyAnnouncements
from agents.policy_follower import PolicyFollower
from agents.policy_publisher import (
    Candidate,
    PolicyPublisher,
    Publication,
    ensure_published,
    open_publisher,
)
from models.generator.generator import Generator
from models.policy.parity import answer_mismatch
from models.serving.engine import GeneratorEngine
from schemas import topics
from schemas.generation import GenerationResponse
from schemas.impressions import HistoryFeatures
from schemas.policies import PolicyPublished
from streams.local.triton import LocalTriton, TritonPorts
from streams.triton_client import TritonGenerator
from streams.triton_control import TritonControl
from tests.agents.policy_stack import PolicyStack, policy_stack
from tests.models.policy.served_world import (
    ITEMS,
    SCENARIOS,
    catalogue,
    request,
    served_log,
    shown,
)

# Each version is a process that imports torch: three of them on two busy cores.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[PolicyStack]:
    """Triton on an empty repository: the first publish loads the model, which follows Kafka."""
    repository = tmp_path / "home" / "model_repository"
    repository.mkdir(parents=True)
    (tmp_path / "triton").mkdir()
    ports = TritonPorts.free()
    with policy_stack(tmp_path, ports.grpc_url) as running:
        environment = {"OXYGENREC_KAFKA__BOOTSTRAP": running.settings.kafka.bootstrap}
        with LocalTriton(repository, tmp_path / "triton", ports=ports, environment=environment):
            yield replace(running, triton_metrics_url=ports.metrics_url)


class Client:
    """Asks for the announced version without a pause, as an edge does."""

    def __init__(self, stack: PolicyStack) -> None:
        self.asked_and_answered: list[tuple[int, int]] = []
        self._generator = TritonGenerator(stack.settings.triton, SCENARIOS)
        self._follower = PolicyFollower(stack.settings.kafka, self._prepare)

    async def run(self) -> None:
        async with self._generator, asyncio.TaskGroup() as group:
            group.create_task(self._follower.run())
            group.create_task(self._ask())

    async def _prepare(self, announced: PolicyPublished) -> None:
        await self._generator.prepare(announced.stable_version)

    async def _ask(self) -> None:
        number = 0
        while True:
            if (policy := self._follower.current) is not None:
                version = policy.stable_version
                answer = await self._generator.generate(
                    request(number), version=version, deadline_ms=10_000
                )
                self.asked_and_answered.append((version, answer.policy_version))
            number += 1
            await asyncio.sleep(0.01)


def candidate_of(publisher: PolicyPublisher, seed: int) -> Candidate:
    served = publisher.served
    weights = Generator(served.generator.config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for own, parent in zip(weights.parameters(), served.generator.parameters(), strict=True):
            own.copy_(parent + 0.01 * torch.randn(parent.shape, generator=random))
    steps = served.manifest.steps + 5
    return Candidate(
        weights=weights,
        steps=steps,
        next_offset=8 * steps,
        groups_used=20,
        probes=[event.impression for event in served_log(GeneratorEngine(served), 3)],
    )


def stub_of(stack: PolicyStack, version: int) -> int:
    """Returns the process id of the stub that serves a version."""
    model = f"{stack.repository / str(version) / 'model.py'}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if model in (process / "cmdline").read_bytes().split(b"\0"):
                return int(process.name)
    raise AssertionError(f"no process serves version {version}")


async def test_two_publishes_fail_no_request_mix_no_version_and_restart_nothing(
    stack: PolicyStack,
) -> None:
    await ensure_published(stack.settings)
    client, thread = Client(stack), ThreadPoolExecutor(1)
    asking = asyncio.create_task(client.run())
    async with open_publisher(stack.settings, stack.producer, thread) as publisher:
        await publisher.begin()
        for parent in (1, 2):
            await asyncio.sleep(1.0)
            stub = stub_of(stack, parent)
            candidate = candidate_of(publisher, parent)
            assert await publisher.publish(candidate) is Publication.PUBLISHED
            assert stub_of(stack, parent) == stub
        await asyncio.sleep(2.0)
        assert not asking.done(), asking.exception()
        asking.cancel()
    assert {asked for asked, _ in client.asked_and_answered} == {1, 2, 3}
    assert all(asked == answered for asked, answered in client.asked_and_answered)
    async with TritonControl(stack.settings.triton) as control:
        assert [await control.ready(version) for version in (1, 2, 3)] == [False, True, True]
    thread.shutdown()


async def test_a_version_that_triton_cannot_load_leaves_the_served_one(
    stack: PolicyStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_published(stack.settings)
    thread = ThreadPoolExecutor(1)
    async with open_publisher(stack.settings, stack.producer, thread) as publisher:
        await publisher.begin()
        candidate, loaded = candidate_of(publisher, 1), publisher.versions.require

        def broken(number: int) -> object:
            found = loaded(number)
            (stack.repository / str(number) / "weights.safetensors").write_bytes(b"torn")
            return found

        monkeypatch.setattr(publisher.versions, "require", broken)
        assert await publisher.publish(candidate) is Publication.NOT_LOADED
    announced = await PolicyAnnouncements(stack.settings.kafka, stack.producer).newest()
    assert announced is not None
    assert announced.stable_version == 1
    async with TritonGenerator(stack.settings.triton, SCENARIOS) as generator:
        answer = await generator.generate(request(0), version=1, deadline_ms=10_000)
    assert answer.policy_version == 1
    thread.shutdown()


async def test_a_change_of_the_catalogue_is_in_the_next_answers_of_a_running_version(
    stack: PolicyStack,
) -> None:
    await ensure_published(stack.settings)
    young = msgspec.structs.replace(catalogue()[0], item_key=9_001, item_id="young", sid=[7, 7, 7])
    gone = msgspec.structs.replace(catalogue()[1], in_stock=False)
    strange = HistoryFeatures(item_keys=[5] * 3, action_codes=[0] * 3, gap_buckets=[0] * 3)
    asked = msgspec.structs.replace(request(0), beams=2 * ITEMS, history=strange)
    thread = ThreadPoolExecutor(1)
    async with (
        TritonGenerator(stack.settings.triton, SCENARIOS) as client,
        open_publisher(stack.settings, stack.producer, thread) as publisher,
    ):

        async def answer() -> GenerationResponse:
            return await client.generate(asked, version=1, deadline_ms=10_000)

        before = await answer()
        assert (before.index_offset, len(before.items)) == (ITEMS, ITEMS)
        for item in (young, gone):
            stack.producer.send(topics.SEMANTIC_IDS, item, item.item_id)
        stack.producer.flush(10_000)
        after = before
        async with asyncio.timeout(10):
            while after.index_offset < ITEMS + 2:
                after = await answer()
        keys = {item.item_key for item in after.items}
        assert keys == {item.item_key for item in before.items} - {gone.item_key} | {9_001}
        # The trainer scores the answer as it was made; the snapshot alone would not.
        await publisher.begin()
        await publisher.growth.reach(after.index_offset)
        loaded, impression = publisher.versions.require(1), shown(0, after)
        grown = publisher.versions.require(1, after.index_offset)
        assert answer_mismatch(loaded.weights, grown, impression, after) <= 1e-3
    samples = oxygenrec_samples(stack.triton_metrics_url)
    assert 0 <= samples['oxygenrec_index_lag_seconds{policy_version="1"}'] < 5
    assert samples['oxygenrec_unknown_history_items_total{policy_version="1"}'] >= 2 * 3
    thread.shutdown()


async def test_a_dead_stub_is_ready_for_triton_found_by_the_probe_and_healed(
    stack: PolicyStack, capsys: pytest.CaptureFixture[str]
) -> None:
    await ensure_published(stack.settings)
    await asyncio.to_thread(show_probe, stack.settings, deadline_ms=10_000, heal=False)
    assert "version 1 decodes" in capsys.readouterr().out
    os.kill(stub_of(stack, 1), signal.SIGKILL)
    async with TritonControl(stack.settings.triton) as control:
        assert await control.ready(1)  # what a probe of Triton's own believes
    with pytest.raises(GeneratorDead, match="version 1 does not decode"):
        await asyncio.to_thread(show_probe, stack.settings, deadline_ms=2_000, heal=False)
    await asyncio.to_thread(show_probe, stack.settings, deadline_ms=10_000, heal=True)
    assert "version 1 decodes" in capsys.readouterr().out


def oxygenrec_samples(url: str) -> dict[str, float]:
    """Returns our own metrics on Triton's endpoint: name and labels -> value."""
    lines = httpx.get(url).text.splitlines()
    samples = (line.rpartition(" ") for line in lines if line.startswith("oxygenrec_"))
    return {name: float(value) for name, _, value in samples}
