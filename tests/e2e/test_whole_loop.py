"""Each arrow of the flow, by its effect, in one run on real Kafka, Redis and Triton.

A client keeps asking while the aggregator and the trainer are killed and version 2 is published.
"""

import pytest

from agents.workers import WORKERS
from models.policy.served_policies import recompute_objective
from models.serving.policy_directory import read_manifest
from schemas import topics
from schemas.actions import UserAction
from schemas.dead_letters import Reason
from tests.e2e.evidence import Evidence, newest_of_each_user

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_no_request_failed_and_no_action_was_refused(evidence: Evidence) -> None:
    assert evidence.failures == []
    assert len(evidence.answers) > 100


def test_no_answer_mixes_versions(evidence: Evidence) -> None:
    for answer in evidence.answers:
        if answer.degraded is None:
            manifest = read_manifest(evidence.versions / str(answer.policy_version))
            assert answer.generation == manifest.generation
            assert answer.index_offset is not None
            assert answer.index_offset >= manifest.index_offset


def test_a_stock_change_is_in_the_answers_of_the_version_that_already_serves(
    evidence: Evidence,
) -> None:
    before, without, again = evidence.stock_changes
    item = before.items[0].item_id
    assert [item in {i.item_id for i in a.items} for a in (before, without, again)] == [
        True,
        False,
        True,
    ]
    assert {answer.policy_version for answer in evidence.stock_changes} == {1}


def test_versions_only_rise_and_the_second_one_serves(evidence: Evidence) -> None:
    served = [a.policy_version for a in evidence.answers if a.policy_version is not None]
    assert served[0] == 1
    assert max(served) >= 2


def test_every_acknowledged_action_is_in_history(evidence: Evidence) -> None:
    lost = [
        action.event_id
        for action in evidence.acknowledged.values()
        if action.event_id not in evidence.history[action.user_id]
    ]
    letters = b"".join(letter.value for letter in evidence.records(topics.DEAD_LETTERS))
    assert [event_id for event_id in lost if event_id.encode() not in letters] == []


def test_poison_is_dead_with_its_bytes_and_its_place(evidence: Evidence) -> None:
    letters = {letter.value: letter for letter in evidence.records(topics.DEAD_LETTERS)}
    assert set(letters) == set(evidence.poison)
    reasons = {letter.rejection.reason for letter in letters.values()}
    assert reasons == {Reason.MALFORMED_JSON, Reason.MISSING_FIELD, Reason.UNKNOWN_SCHEMA}
    assert all(letter.topic == topics.ACTIONS for letter in letters.values())


def test_the_router_forwards_high_value_actions_once_and_nothing_else(evidence: Evidence) -> None:
    high_value = set(evidence.settings.router.high_value)
    wanted = {a.event_id for a in evidence.acknowledged.values() if a.action in high_value}
    found = [
        record.event_id
        for record in evidence.records(topics.HIGH_VALUE_ACTIONS)
        if isinstance(record, UserAction)
    ]
    assert set(found) == wanted
    assert len(found) == len(wanted)  # no router was killed: not even a repeat


def test_every_item_got_a_semantic_id(evidence: Evidence) -> None:
    assignments = evidence.records(topics.SEMANTIC_IDS)
    assert len({assignment.item_key for assignment in assignments}) == evidence.items
    assert {len(assignment.sid) for assignment in assignments} == {3}


def test_every_users_newest_trigger_becomes_an_instruction_that_is_in_force(
    evidence: Evidence,
) -> None:
    triggers = evidence.records(topics.INSTRUCTION_TRIGGERS)
    instructions = evidence.records(topics.INSTRUCTIONS)
    triggered, written = ({one.trigger_id for one in found} for found in (triggers, instructions))
    assert newest_of_each_user(triggered) <= written <= triggered
    newest: dict[str, tuple[int, str]] = {}
    for one in instructions:
        newest[one.user_id] = max(
            newest.get(one.user_id, (0, "")), (one.as_of_ms, one.instruction_id)
        )
    in_force = {user: instruction_id for user, (_, instruction_id) in newest.items()}
    assert evidence.in_force == in_force


def test_an_instruction_says_what_was_searched_for(evidence: Evidence) -> None:
    searches = {
        trigger.trigger_id: action.query
        for trigger in evidence.records(topics.INSTRUCTION_TRIGGERS)
        for action in trigger.actions
        if action.query
    }
    texts = {i.trigger_id: i.text for i in evidence.records(topics.INSTRUCTIONS)}
    assert searches
    said = {trigger_id: query for trigger_id, query in searches.items() if trigger_id in texts}
    assert said  # a trigger that a newer one of its user superseded has no text
    assert all(query in texts[trigger_id] for trigger_id, query in said.items())


def test_slates_are_made_under_instructions(evidence: Evidence) -> None:
    known = {i.instruction_id for i in evidence.records(topics.INSTRUCTIONS)}
    told = {a.instruction.id for a in evidence.answers if a.instruction is not None}
    assert len(told) > 5
    assert told <= known | {i for i in told if i.startswith("query:")}


def test_every_answer_is_an_impression_with_logprobs_and_an_explored_slot(
    evidence: Evidence,
) -> None:
    impressions = {i.request_id: i for i in evidence.records(topics.IMPRESSIONS)}
    for answer in evidence.answers:
        shown = impressions[answer.request_id]
        assert [item.item_id for item in shown.slate] == [item.item_id for item in answer.items]
        if answer.degraded is None:
            assert all(len(item.logprobs) == 3 for item in shown.slate)
            assert shown.exploration is not None
            assert 0 < shown.exploration.position < len(shown.slate)


def test_every_impression_is_joined_once_with_what_was_done_about_it(evidence: Evidence) -> None:
    rewards = evidence.records(topics.REWARDS)
    assert {r.request_id for r in rewards} == {
        i.request_id for i in evidence.records(topics.IMPRESSIONS)
    }
    assert len({r.request_id for r in rewards}) == len(rewards)
    clicked = {
        (action.request_id, action.item_id)
        for action in evidence.acknowledged.values()
        if action.request_id and action.action == "click"
    }
    joined = {(r.request_id, o.item_id) for r in rewards for o in r.outcomes if o.outcome > 0}
    assert clicked
    assert clicked <= joined


def test_version_two_names_what_it_was_made_of(evidence: Evidence) -> None:
    manifest = read_manifest(evidence.versions / "2")
    assert manifest.parent == 1
    start, stop = manifest.reward_offsets
    assert (start, stop) == (0, evidence.steps[manifest.steps - 1].next_offset)
    assert manifest.groups_used == sum(len(s.request_ids) for s in evidence.steps[: manifest.steps])
    assert manifest.weight_change_norm > 0


def test_served_and_recomputed_logprobs_agree(evidence: Evidence) -> None:
    assert 0 <= max(step.logprob_mismatch_max for step in evidence.steps) <= 1e-3


def test_learning_raised_the_objective_of_the_groups_it_learned_from(evidence: Evidence) -> None:
    manifest = read_manifest(evidence.versions / "2")
    used = {r for step in evidence.steps[: manifest.steps] for r in step.request_ids}
    gains = []
    for reward in evidence.records(topics.REWARDS):
        if reward.request_id in used and reward.impression.policy_version == 1:
            before, after = (
                recompute_objective(
                    reward,
                    evidence.versions / version,
                    evidence.settings.policy,
                    evidence.growth(),
                )
                for version in ("1", "2")
            )
            gains.append(after - before)
    assert gains
    assert sum(gains) > 0
    assert max(gains) > 0
    assert sum(gain > 0 for gain in gains) > len(gains) / 2


def test_prometheus_finds_every_process_and_no_worker_is_behind(evidence: Evidence) -> None:
    assert set(evidence.metrics) == {*WORKERS, "triton"}
    assert all("\noxygenrec_" in text for text in evidence.metrics.values())
    for worker in ("router", "window-aggregator", "instruction-writer", "catalog-indexer"):
        told = [
            line
            for line in evidence.metrics[worker].splitlines()
            if line.startswith('oxygenrec_lag_records{partition="0",topic=')
        ]
        assert told, f"{worker} does not tell its lag"
        assert {float(line.split()[-1]) for line in told} <= {0.0, 1.0, 2.0}, told
