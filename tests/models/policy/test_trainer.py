"""The trainer on a small policy: what it learns and drops, and that a crash changes nothing."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.policy.checkpoint import FencedCheckpoint, load_checkpoint, save_checkpoint
from models.policy.config import PolicyConfig
from models.policy.groups import DropReason
from models.policy.optimizer_state import weights_sha256
from models.policy.served_version import ServedVersion
from models.policy.step_log import StepLog, StepReport
from models.policy.trainer import PolicyTrainer
from schemas.actions import ActionType
from schemas.impressions import HistoryFeatures
from schemas.rewards import RewardEvent
from tests.models.policy.reward_events import impression, reward_event, slate_item
from tests.models.policy.tabular_policy import TabularPolicy, TabularVersion, spelt

CONFIG = PolicyConfig(groups_per_step=4, learning_rate=0.01)
SERVED = TabularPolicy(0)


PUBLISHED: dict[int, ServedVersion] = {number: TabularVersion(SERVED) for number in (1, 2)}


def versions(policy_version: int, index_offset: int) -> ServedVersion | None:
    return PUBLISHED.get(policy_version)


def trainer(config: PolicyConfig = CONFIG) -> PolicyTrainer:
    return PolicyTrainer(
        policy=TabularPolicy(0),
        reference=TabularPolicy(0),
        generation=1,
        versions=versions,
        config=config,
    )


def served_event(
    request_id: str, *, seed: int, shift: float = 0.0, policy_version: int = 1
) -> RewardEvent:
    """A slate of 5 items whose second was clicked and fourth bought; one was bought elsewhere."""
    chance = random.Random(seed)
    keys = chance.sample(range(60), 6)
    history = HistoryFeatures(
        item_keys=keys[: chance.randrange(6)], action_codes=[], gap_buckets=[]
    )
    sids = torch.tensor([[spelt(key) for key in keys[:5]]])
    with torch.no_grad():
        logprobs = SERVED(torch.tensor([len(history.item_keys)]), sids)[0] + shift
    slate = [
        slate_item(key, spelt(key), position, logprobs[position].tolist())
        for position, key in enumerate(keys[:5])
    ]
    shown = impression(slate, request_id=request_id, history=history, policy_version=policy_version)
    chosen = {keys[1]: ActionType.CLICK, keys[3]: ActionType.ORDER}
    return reward_event(shown, chosen=chosen, outside={keys[5]: ActionType.CART}, examined=range(5))


LOG = [served_event(f"request-{number}", seed=number) for number in range(42)]


def run(learner: PolicyTrainer, start: int = 0, stop: int = len(LOG)) -> list[StepReport]:
    reports = [learner.offer(offset, LOG[offset]) for offset in range(start, stop)]
    return [report for report in reports if report is not None]


def test_steps_are_counted_in_used_groups() -> None:
    learner = trainer()
    reports = run(learner)
    assert [report.step for report in reports] == list(range(1, 11))
    assert [(r.start_offset, r.next_offset) for r in reports[:2]] == [(0, 4), (4, 8)]
    assert reports[0].request_ids == [f"request-{number}" for number in range(4)]
    assert learner.counts["used"] == 40  # two wait unchecked for the next step


def test_the_objective_of_used_groups_rises() -> None:
    learner = trainer()
    groups = [learner._admit(event) for event in LOG[:4]]
    used = [group for group in groups if not isinstance(group, DropReason)]
    assert len(used) == 4
    objectives = [learner.step(used).objective for _ in range(5)]
    assert objectives == sorted(objectives)
    assert objectives[-1] > objectives[0] + 0.01


def test_what_was_bought_gains_on_what_was_passed_over() -> None:
    learner = trainer()
    run(learner)
    margins = []
    for event in LOG:
        sids = torch.tensor([[item.sid for item in event.impression.slate]])
        length = torch.tensor([len(event.impression.history.item_keys)])
        with torch.no_grad():
            gain = (learner.policy(length, sids) - SERVED(length, sids)).sum(dim=2)[0]
        margins.append(float(gain[3] - (gain[0] + gain[2] + gain[4]) / 3))
    assert sum(margins) / len(margins) > 0.05


def test_the_same_log_gives_bitwise_the_same_weights() -> None:
    first, second = trainer(), trainer()
    assert run(first) == run(second)
    assert weights_sha256(first.policy) == weights_sha256(second.policy)


@pytest.mark.parametrize("killed_at", [3, 4, 6, 13, 41])
def test_a_killed_trainer_goes_on_without_skipping_or_repeating_a_step(
    killed_at: int, tmp_path: Path
) -> None:
    undisturbed = trainer()
    expected = run(undisturbed)
    log = StepLog(tmp_path / "steps.jsonl")
    learner = trainer()
    for offset in range(killed_at):
        if report := learner.offer(offset, LOG[offset]):
            log.append(report)
            if offset < killed_at - 1:  # a step right before the kill reaches its log line only
                save_checkpoint(tmp_path, learner.state(epoch=1))
    successor = trainer()
    if state := load_checkpoint(tmp_path):
        successor.restore(state)
    log.keep_until(successor.steps)
    for offset in range(successor.next_offset, len(LOG)):
        if report := successor.offer(offset, LOG[offset]):
            log.append(report)
    assert log.read() == expected
    assert weights_sha256(successor.policy) == weights_sha256(undisturbed.policy)


def test_a_repeated_request_is_ignored_also_after_a_restart(tmp_path: Path) -> None:
    learner = trainer()
    run(learner, 0, 4)
    save_checkpoint(tmp_path, learner.state(epoch=1))
    successor = trainer()
    state = load_checkpoint(tmp_path)
    assert state is not None
    successor.restore(state)
    assert all(successor.offer(4 + number, LOG[number]) is None for number in range(4))
    assert successor.counts == {DropReason.REPEATED: 4}
    assert successor.next_offset == 8


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (served_event("a", seed=1, shift=-0.2), DropReason.LOGPROB_MISMATCH),
        (served_event("b", seed=2, policy_version=7), DropReason.UNKNOWN_VERSION),
        (
            reward_event(impression([slate_item(0, (0, 0, 0), 0)]), examined=(0,)),
            DropReason.ZERO_VARIANCE,
        ),
        (
            reward_event(
                impression([slate_item(0, (9, 9, 9), 0), slate_item(1, (0, 0, 1), 1)]),
                chosen={1: ActionType.CLICK},
                examined=(0, 1),
            ),
            DropReason.UNKNOWN_SID,
        ),
    ],
)
def test_a_group_that_cannot_be_trusted_is_dropped_with_its_reason(
    event: RewardEvent, reason: DropReason
) -> None:
    learner = trainer(replace(CONFIG, groups_per_step=1))
    assert learner.offer(0, event) is None
    assert learner.counts == {reason: 1}


def test_an_untrusted_group_costs_its_step_no_other_group() -> None:
    learner = trainer()
    events = [served_event(str(n), seed=n, shift=1.0 if n == 2 else 0.0) for n in range(5)]
    reports = [learner.offer(offset, event) for offset, event in enumerate(events)]
    assert [report is not None for report in reports] == [False, False, False, False, True]
    assert reports[-1] is not None
    assert reports[-1].request_ids == ["0", "1", "3", "4"]
    assert learner.counts == {DropReason.LOGPROB_MISMATCH: 1, "used": 4}


def test_a_step_on_two_versions_scores_each_group_with_its_own_members() -> None:
    learner = trainer()
    events = [
        served_event(f"request-{seed}", seed=seed, policy_version=1 + seed % 2) for seed in range(4)
    ]
    groups = [group for event in events if not isinstance(group := learner._admit(event), str)]
    groups.sort(key=lambda group: group.impression.policy_version)
    together = learner._loss(groups).loss.item()
    alone = [learner._loss([group]).loss.item() for group in groups]
    assert len(alone) == 4
    assert together == pytest.approx(sum(alone) / 4, abs=1e-6)


def test_equal_weights_reproduce_the_served_logprobs() -> None:
    learner = trainer()
    run(learner)
    assert learner.logprob_mismatch_max <= 1e-5


def test_the_reference_holds_the_policy_back() -> None:
    free, held = trainer(replace(CONFIG, kl_weight=0.0)), trainer(replace(CONFIG, kl_weight=10.0))
    run(free)
    run(held)

    def distance(learner: PolicyTrainer) -> float:
        pairs = zip(learner.policy.parameters(), SERVED.parameters(), strict=True)
        return sum(float((new - old).detach().norm()) for new, old in pairs)

    assert distance(held) < 0.8 * distance(free)


def test_a_checkpoint_of_a_later_writer_fences_the_earlier_one(tmp_path: Path) -> None:
    learner = trainer()
    run(learner, 0, 4)
    save_checkpoint(tmp_path, learner.state(epoch=2))
    run(learner, 4, 8)
    with pytest.raises(FencedCheckpoint):
        save_checkpoint(tmp_path, learner.state(epoch=1))


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    learner = trainer()
    for start in range(0, 24, 4):
        run(learner, start, start + 4)
        save_checkpoint(tmp_path, learner.state(epoch=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000004",
        "00000005",
        "00000006",
    ]
