"""kill -9 of the aggregator and of the trainer in the middle of the run (FLOW, Windows; 7)."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from agents.artifact_folders import generation_folder
from models.generator.files import load_generator
from models.policy.served_policies import VersionDirectories
from models.policy.trainer import PolicyTrainer
from schemas import topics
from schemas.codec import Decoder
from schemas.instructions import InstructionTrigger
from schemas.rewards import RewardEvent
from tests.e2e.evidence import Evidence
from tests.streams.window_recount import recount

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_both_were_killed(evidence: Evidence) -> None:
    assert set(evidence.killed) == {"window-aggregator", "policy-trainer"}


def test_each_window_of_an_offline_recount_is_triggered_once(evidence: Evidence) -> None:
    wanted: dict[str, tuple[str, ...]] = {}
    for partition in evidence.high_value():
        wanted |= recount(partition, evidence.settings.windows).triggers
    triggers = evidence.records(topics.INSTRUCTION_TRIGGERS)
    found = {t.trigger_id: tuple(a.event_id for a in t.actions) for t in triggers}
    assert found == wanted
    assert len(wanted) > 20


def test_a_trigger_that_was_repeated_by_the_crash_has_the_same_bytes(evidence: Evidence) -> None:
    decoder: Decoder[InstructionTrigger] = Decoder(InstructionTrigger)
    values: dict[str, set[bytes]] = {}
    for partition in evidence.logs[topics.INSTRUCTION_TRIGGERS]:
        for record in partition:
            trigger_id = decoder.decode(record.value or b"").trigger_id
            values.setdefault(trigger_id, set()).add(record.value or b"")
    assert {trigger_id for trigger_id, found in values.items() if len(found) > 1} == set()


def test_instructions_are_written_once_a_window(evidence: Evidence) -> None:
    written = Counter(i.instruction_id for i in evidence.records(topics.INSTRUCTIONS))
    triggers = Counter(t.trigger_id for t in evidence.records(topics.INSTRUCTION_TRIGGERS))
    repeated = sum(count - 1 for count in triggers.values())
    assert sum(count - 1 for count in written.values()) <= repeated


def test_no_gradient_step_is_skipped_or_repeated(evidence: Evidence) -> None:
    steps = evidence.steps
    assert [report.step for report in steps] == list(range(1, len(steps) + 1))
    assert steps[0].start_offset == 0
    for before, after in pairwise(steps):
        assert after.start_offset == before.next_offset
    learned = Counter(request for report in steps for request in report.request_ids)
    assert max(learned.values()) == 1


def test_an_undisturbed_trainer_makes_bitwise_the_same_weights(evidence: Evidence) -> None:
    torch.set_num_threads(1)
    settings = evidence.settings
    torch.manual_seed(settings.policy.seed)
    versions = VersionDirectories(evidence.versions)
    trainer = PolicyTrainer(
        policy=versions.require(1).loaded.generator,
        reference=load_generator(generation_folder(settings, 1)),
        generation=1,
        versions=VersionDirectories(evidence.versions, evidence.growth()),
        config=settings.policy,
    )
    decoder: Decoder[RewardEvent] = Decoder(RewardEvent)
    hashes = []
    for record in evidence.logs[topics.REWARDS][0]:
        report = trainer.offer(record.offset, decoder.decode(record.value or b""))
        if report is not None:
            hashes.append(report.weights_sha256)
    assert [step.weights_sha256 for step in evidence.steps] == hashes[: len(evidence.steps)]
    assert len(evidence.steps) > settings.policy.steps_per_publish
