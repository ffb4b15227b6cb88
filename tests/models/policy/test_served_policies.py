"""The trainer on the real generator: parity with what was served, and learning one can show."""

from pathlib import Path

import pytest
import torch

from models.generator.generator import Generator
from models.policy.config import PolicyConfig
from models.policy.parity import answer_mismatch, weight_change_norm
from models.policy.served_policies import (
    UnusableGroup,
    VersionDirectories,
    recompute_objective,
    request_of,
)
from models.policy.trainer import PolicyTrainer
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy
from schemas.generation import GenerationResponse
from schemas.rewards import RewardEvent
from tests.models.policy.served_world import fresh_generator, publish, request, served_log

CONFIG = PolicyConfig(groups_per_step=4, learning_rate=1e-3)


@pytest.fixture
def first(tmp_path: Path) -> LoadedPolicy:
    return publish(tmp_path, 1, fresh_generator())


@pytest.fixture
def log(first: LoadedPolicy) -> list[RewardEvent]:
    return served_log(GeneratorEngine(first), 32)


def trainer_on(repository: Path) -> PolicyTrainer:
    return PolicyTrainer(
        policy=fresh_generator(),
        reference=fresh_generator(),
        generation=1,
        versions=VersionDirectories(repository),
        config=CONFIG,
    )


def test_the_trainer_reproduces_the_served_logprobs(log: list[RewardEvent], tmp_path: Path) -> None:
    learner = trainer_on(tmp_path)
    for offset, event in enumerate(log):
        learner.offer(offset, event)
    assert learner.counts["used"] >= 20
    assert learner.counts["logprob_mismatch"] == 0
    assert 0 < learner.logprob_mismatch_max <= 1e-4


def test_padding_beside_longer_requests_changes_no_step(
    log: list[RewardEvent], tmp_path: Path
) -> None:
    learner = trainer_on(tmp_path)
    groups = [group for event in log[:8] if not isinstance(group := learner._admit(event), str)]
    together = learner._loss(groups)
    alone = [learner._loss([group]).loss for group in groups]
    assert together.loss.item() == pytest.approx(torch.stack(alone).mean().item(), abs=1e-5)


def test_the_objective_of_logged_groups_rises_from_version_one_to_two(
    log: list[RewardEvent], tmp_path: Path
) -> None:
    learner = trainer_on(tmp_path)
    for offset, event in enumerate(log):
        learner.offer(offset, event)
    assert isinstance(learner.policy, Generator)
    publish(tmp_path, 2, learner.policy)
    risen, used = 0, 0
    for event in log:
        try:
            before = recompute_objective(event, tmp_path / "1", CONFIG)
        except UnusableGroup:
            continue
        used += 1
        risen += recompute_objective(event, tmp_path / "2", CONFIG) > before
    assert used >= 20
    assert risen >= 0.9 * used


def test_parity_compares_what_was_answered_with_the_given_weights(
    first: LoadedPolicy, log: list[RewardEvent]
) -> None:
    impression = log[3].impression
    answer = GeneratorEngine(first).generate([request_of(impression)])[0]
    assert isinstance(answer, GenerationResponse)
    assert answer_mismatch(first.generator, first, impression, answer) <= 1e-4
    assert answer_mismatch(fresh_generator(seed=1), first, impression, answer) > 1e-2


def test_the_weight_change_is_the_distance_of_all_weights() -> None:
    moved, still = fresh_generator(), fresh_generator()
    with torch.no_grad():
        moved.head_bias_LV.add_(0.5)
    assert weight_change_norm(still, still) == 0
    expected = 0.5 * moved.head_bias_LV.numel() ** 0.5
    assert weight_change_norm(moved, still) == pytest.approx(expected, rel=1e-5)


def test_an_impression_gives_back_the_request_that_made_it(log: list[RewardEvent]) -> None:
    assert [request_of(event.impression) for event in log[:6]] == [request(n) for n in range(6)]
