"""The trainer's process: killed at any moment it skips and repeats no step; SIGTERM is clean."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
import torch

from agents.artifact_folders import checkpoint_folder
from agents.policy_publisher import ensure_published
from agents.settings import PREFIX
from models.policy.served_policies import VersionDirectories, recompute_objective
from models.policy.step_log import StepLog, StepReport
from models.policy.trainer import PolicyTrainer
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import load_version, read_manifest
from schemas import topics
from schemas.rewards import RewardEvent
from streams.log_reader import LogReader
from tests.agents.policy_stack import POLICY, PolicyStack, policy_stack
from tests.models.policy.served_world import fresh_generator, served_log

# Three starts of a process that imports torch: more than the usual two minutes on busy cores.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

START_S = 110.0  # a cold torch import and the steps, on two cores that others use too


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[PolicyStack]:
    with policy_stack(tmp_path) as running:
        yield running


class Worker:
    """`oxygenrec worker policy-trainer` as a process of its own."""

    def __init__(self, stack: PolicyStack, log: Path) -> None:
        settings = stack.settings
        given = {
            "PATHS__HOME": settings.paths.home,
            "KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
            "KAFKA__PARTITIONS": "1",
            "KAFKA__REPLICATION": "1",
            "TRITON__GRPC_URL": settings.triton.grpc_url,
            "POLICY__GROUPS_PER_STEP": str(POLICY.groups_per_step),
            "POLICY__STEPS_PER_PUBLISH": str(POLICY.steps_per_publish),
            "POLICY__LEARNING_RATE": str(POLICY.learning_rate),
        }
        environment = os.environ | {PREFIX + name: value for name, value in given.items()}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents.cli", "worker", "policy-trainer"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()  # does nothing to one that has ended
        self.process.wait(10)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def wait_for(condition: Callable[[], bool], worker: Worker, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if worker.process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(log.read_text()[-3_000:])
        time.sleep(0.02)


def undisturbed(events: list[RewardEvent], repository: Path) -> list[StepReport]:
    """Returns the steps of a trainer that nobody disturbs, on the same log."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trainer = PolicyTrainer(
        policy=fresh_generator(),
        reference=fresh_generator(),
        generation=1,
        versions=VersionDirectories(repository),
        config=POLICY,
    )
    reports = [trainer.offer(offset, event) for offset, event in enumerate(events)]
    torch.set_num_threads(threads)
    return [report for report in reports if report is not None]


async def test_a_trainer_killed_twice_makes_the_steps_of_one_that_was_not(
    stack: PolicyStack, tmp_path: Path
) -> None:
    await ensure_published(stack.settings)
    events = served_log(GeneratorEngine(load_version(stack.repository / "1")), 60)
    expected = undisturbed(events, stack.repository)
    assert len(expected) >= 10
    steps = StepLog(checkpoint_folder(stack.settings) / "steps.jsonl")
    log = tmp_path / "worker.log"

    stack.reward(events[:30])
    with Worker(stack, log) as worker:  # killed between steps, or in the middle of one
        wait_for(lambda: len(steps.read()) >= 2, worker, log)
    stack.reward(events[30:50] + events[:5])  # repeats too: they are ignored
    with Worker(stack, log) as worker:
        wait_for(lambda: len(steps.read()) >= 7, worker, log)
    stack.reward(events[50:])
    with Worker(stack, log) as worker:
        wait_for(lambda: len(steps.read()) >= len(expected), worker, log)
        assert worker.terminate() == 0

    done = steps.read()
    assert [report.request_ids for report in done] == [r.request_ids for r in expected]
    assert [report.weights_sha256 for report in done] == [r.weights_sha256 for r in expected]
    assert [report.start_offset for report in done[1:]] == [r.next_offset for r in done[:-1]]


async def test_a_published_version_names_what_it_learnt_and_raises_the_objective(
    stack: PolicyStack, tmp_path: Path
) -> None:
    await ensure_published(stack.settings)
    events = served_log(GeneratorEngine(load_version(stack.repository / "1")), 30)
    stack.producer.send(topics.REWARDS, b"{}", "broken")
    stack.reward(events)
    log = tmp_path / "worker.log"
    with Worker(stack, log) as worker:
        wait_for((stack.repository / "2").is_dir, worker, log)
        assert worker.terminate() == 0
    manifest = read_manifest(stack.repository / "2")
    assert manifest.parent == 1
    assert manifest.groups_used == POLICY.groups_per_step * POLICY.steps_per_publish
    assert manifest.reward_offsets[0] == 0
    assert manifest.reward_offsets[1] > manifest.groups_used
    assert manifest.weight_change_norm > 0
    report = StepLog(checkpoint_folder(stack.settings) / "steps.jsonl").read()[0]
    learnt = [event for event in events if event.request_id in report.request_ids]
    before = [recompute_objective(event, stack.repository / "1") for event in learnt]
    after = [recompute_objective(event, stack.repository / "2") for event in learnt]
    assert sum(after) > sum(before)
    async with LogReader(stack.settings.kafka, topics.DEAD_LETTERS) as letters:
        assert len(await letters.read()) == 1
