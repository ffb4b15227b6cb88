"""The trainer on the real generator: parity with what was served, and learning one can show."""

from dataclasses import replace as replace_part
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from models.decoding.item_index import UnknownSemanticId
from models.generator.generator import Generator
from models.policy.config import PolicyConfig
from models.policy.index_growth import IndexGrowth
from models.policy.parity import answer_mismatch, weight_change_norm
from models.policy.served_policies import (
    ServedPolicy,
    UnusableGroup,
    VersionDirectories,
    recompute_objective,
    request_of,
)
from models.policy.trainer import PolicyTrainer
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy
from schemas.generation import GenerationResponse
from schemas.impressions import Impression
from schemas.rewards import RewardEvent
from tests.models.decoding.small_neighbours import small_neighbours
from tests.models.policy.served_world import (
    ITEMS,
    catalogue,
    fresh_generator,
    publish,
    request,
    served_log,
    shown,
)

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


def test_a_table_that_moves_items_moves_no_step_of_the_trainer(
    first: LoadedPolicy, tmp_path: Path
) -> None:
    table = small_neighbours(first.index, weight=20.0)
    events = served_log(GeneratorEngine(replace_part(first, neighbours=table)), 32)
    plain = served_log(GeneratorEngine(first), 32)
    slates = [[item.item_key for item in event.impression.slate] for event in events]
    assert slates != [[item.item_key for item in event.impression.slate] for event in plain]
    learner = trainer_on(tmp_path)
    for offset, event in enumerate(events):
        learner.offer(offset, event)
    assert learner.counts["used"] >= 20
    assert learner.counts["logprob_mismatch"] == 0
    assert 0 < learner.logprob_mismatch_max <= 1e-4
    other = trainer_on(tmp_path)
    for offset, event in enumerate(events):  # the scores are logged, and nothing learns from them
        slate = [replace(item, score=0.0) for item in event.impression.slate]
        other.offer(offset, replace(event, impression=replace(event.impression, slate=slate)))
    same = zip(learner.policy.parameters(), other.policy.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in same)


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
    assert answer_mismatch(first.generator, ServedPolicy(first), impression, answer) <= 1e-4
    tabled = replace_part(first, neighbours=small_neighbours(first.index, weight=20.0))
    reranked = GeneratorEngine(tabled).generate([request_of(impression)])[0]
    assert isinstance(reranked, GenerationResponse)
    assert answer_mismatch(first.generator, ServedPolicy(tabled), impression, reranked) <= 1e-4
    assert answer_mismatch(fresh_generator(seed=1), ServedPolicy(first), impression, answer) > 1e-2


def test_the_weight_change_is_the_distance_of_all_weights() -> None:
    moved, still = fresh_generator(), fresh_generator()
    with torch.no_grad():
        moved.head_bias_LV.add_(0.5)
    assert weight_change_norm(still, still) == 0
    expected = 0.5 * moved.head_bias_LV.numel() ** 0.5
    assert weight_change_norm(moved, still) == pytest.approx(expected, rel=1e-5)


def test_an_impression_gives_back_the_request_that_made_it(log: list[RewardEvent]) -> None:
    assert [request_of(event.impression) for event in log[:6]] == [request(n) for n in range(6)]


YOUNG = [
    replace(catalogue()[number], item_key=5_000 + number, item_id=f"young-{number}", sid=sid)
    for number, sid in enumerate([[1, 6, 2], [7, 7, 7], catalogue()[3].sid])
]


def answered_at(engine: GeneratorEngine, number: int) -> tuple[Impression, GenerationResponse]:
    (answer,) = engine.generate([request(number)])
    assert isinstance(answer, GenerationResponse)
    return shown(number, answer), answer


def test_a_request_is_scored_under_the_structure_that_answered_it(tmp_path: Path) -> None:
    policy = publish(tmp_path, 1, fresh_generator())
    growth = IndexGrowth(ITEMS)
    versions = VersionDirectories(tmp_path, growth)
    engine = GeneratorEngine(policy)
    answers = []
    for number, item in enumerate(YOUNG):
        answers.append(answered_at(engine, number))
        engine.catalogue.apply([item], [], ITEMS + number + 1)
        growth.extend([(ITEMS + number, item)], ITEMS + number + 1)
    answers.append(answered_at(engine, 3))
    for impression, answer in answers:
        served = versions.require(1, impression.index_offset)
        assert answer_mismatch(policy.generator, served, impression, answer) <= 1e-4
    last, answer = answers[-1]
    with pytest.raises(UnknownSemanticId):
        answer_mismatch(policy.generator, versions.require(1), last, answer)


def test_a_change_of_stock_is_the_same_structure_and_an_unread_log_is_none(
    tmp_path: Path,
) -> None:
    publish(tmp_path, 1, fresh_generator())
    versions = VersionDirectories(tmp_path, IndexGrowth(ITEMS))
    versions.growth.extend([(ITEMS, replace(catalogue()[0], in_stock=False))], ITEMS + 2)
    assert versions(1, ITEMS + 2) is versions(1)
    assert versions(1, ITEMS + 3) is None
    versions.growth.restart(ITEMS + 1)
    assert versions(1, ITEMS + 1) is None
    assert versions(1, ITEMS) is versions(1)


def test_an_item_of_another_generation_is_no_growth(tmp_path: Path) -> None:
    publish(tmp_path, 1, fresh_generator())
    versions = VersionDirectories(tmp_path, IndexGrowth(ITEMS))
    versions.growth.extend([(ITEMS, replace(YOUNG[0], generation=2))], ITEMS + 1)
    assert versions(1, ITEMS + 1) is versions(1)
