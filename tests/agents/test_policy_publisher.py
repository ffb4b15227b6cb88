"""Publishing on a real broker, generating in this process: idempotent, fenced, all or nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch

from agents.policy_announcements import FencedWriter, PolicyAnnouncements
from agents.policy_publisher import (
    Candidate,
    PolicyPublisher,
    Publication,
    ensure_published,
    open_publisher,
)
from models.generator.generator import Generator
from models.serving.engine import GeneratorEngine
from models.serving.neighbours_file import FILE_NAME
from models.serving.policy_directory import load_version, published_versions, read_manifest
from tests.agents.policy_stack import PolicyStack, policy_stack
from tests.models.policy.served_world import ITEMS, fresh_generator, served_log

pytestmark = pytest.mark.integration


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[PolicyStack]:
    with policy_stack(tmp_path) as running:
        yield running


@asynccontextmanager
async def publisher_of(stack: PolicyStack) -> AsyncIterator[PolicyPublisher]:
    thread = ThreadPoolExecutor(1)
    try:
        async with open_publisher(stack.settings, stack.producer, thread) as publisher:
            yield publisher
    finally:
        thread.shutdown()


def moved(weights: Generator, step: float) -> Generator:
    candidate = fresh_generator()
    candidate.load_state_dict(weights.state_dict())
    with torch.no_grad():
        for parameter in candidate.parameters():
            parameter.add_(step * torch.sign(parameter))
    return candidate


def candidate_of(stack: PolicyStack, weights: Generator, steps: int = 5) -> Candidate:
    engine = GeneratorEngine(load_version(stack.repository / "1"))
    return Candidate(
        weights=weights,
        steps=steps,
        next_offset=40,
        groups_used=20,
        probes=[event.impression for event in served_log(engine, 4)],
    )


async def test_the_offline_model_is_published_once(stack: PolicyStack) -> None:
    first = await ensure_published(stack.settings)
    assert (first.stable_version, first.generation, first.epoch) == (1, 1, 1)
    assert first.index_offset == ITEMS
    assert await ensure_published(stack.settings) == first
    assert published_versions(stack.repository) == [1]
    loaded = load_version(stack.repository / "1")
    assert len(loaded.index.keys_N) == ITEMS
    assert loaded.neighbours is not None
    assert "versions: [ 1 ]" in (stack.repository / "config.pbtxt").read_text()


async def test_a_version_written_before_a_crash_is_announced_by_the_next_start(
    stack: PolicyStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fallen(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(PolicyAnnouncements, "announce", fallen)
        with pytest.raises(asyncio.CancelledError):
            await ensure_published(stack.settings)
    assert (await ensure_published(stack.settings)).stable_version == 1
    assert published_versions(stack.repository) == [1]


async def test_a_candidate_that_answers_as_trained_is_announced(stack: PolicyStack) -> None:
    await ensure_published(stack.settings)
    async with publisher_of(stack) as publisher:
        await publisher.begin()
        candidate = candidate_of(stack, moved(publisher.served.generator, 0.01))
        assert await publisher.publish(candidate) is Publication.PUBLISHED
        announced = await PolicyAnnouncements(stack.settings.kafka, stack.producer).newest()
    assert announced is not None
    assert (announced.stable_version, announced.epoch) == (2, 2)
    manifest = read_manifest(stack.repository / "2")
    assert (manifest.parent, manifest.reward_offsets) == (1, (0, 40))
    assert (manifest.groups_used, manifest.steps) == (20, 5)
    assert manifest.weight_change_norm > 0.1
    tables = [(stack.repository / version / FILE_NAME).read_bytes() for version in "12"]
    assert tables[0] == tables[1]  # the generation's
    assert "versions: [ 1, 2 ]" in (stack.repository / "config.pbtxt").read_text()


async def test_a_version_that_answers_otherwise_is_not_announced(
    stack: PolicyStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_published(stack.settings)
    async with publisher_of(stack) as publisher:
        await publisher.begin()
        candidate = candidate_of(stack, moved(publisher.served.generator, 0.01))
        loaded = publisher.versions.require

        def drifting(number: int, index_offset: int | None = None) -> object:
            found = loaded(number, index_offset)
            with torch.no_grad():  # the trainer's weights move on after the directory was written
                for parameter in candidate.weights.parameters():
                    parameter.mul_(1.1)
            return found

        monkeypatch.setattr(publisher.versions, "require", drifting)
        assert await publisher.publish(candidate) is Publication.MISMATCH
        announced = await PolicyAnnouncements(stack.settings.kafka, stack.producer).newest()
        assert publisher.served.manifest.policy_version == 1
    assert announced is not None
    assert announced.stable_version == 1
    assert published_versions(stack.repository) == [1, 2]
    assert "versions: [ 1 ]" in (stack.repository / "config.pbtxt").read_text()


async def test_the_later_of_two_writers_fences_the_earlier(stack: PolicyStack) -> None:
    await ensure_published(stack.settings)
    async with publisher_of(stack) as earlier, publisher_of(stack) as later:
        await earlier.begin()
        await later.begin()
        assert (earlier.epoch, later.epoch) == (2, 3)
        candidate = candidate_of(stack, moved(earlier.served.generator, 0.01))
        with pytest.raises(FencedWriter):
            await earlier.publish(candidate)
        assert await later.publish(candidate) is Publication.PUBLISHED


async def test_two_that_claim_at_once_get_different_epochs(stack: PolicyStack) -> None:
    await ensure_published(stack.settings)
    async with publisher_of(stack) as one, publisher_of(stack) as other:
        await asyncio.gather(one.begin(), other.begin())
        assert one.epoch != other.epoch
