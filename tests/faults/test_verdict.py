"""The verdict on a run: a clean one passes, and each planted violation is seen under its name."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.reward_join import join
from schemas.actions import ActionType, HighValueRecord, UserAction, Watermark
from schemas.catalog import SidAssignment
from schemas.dead_letters import DeadLetter, Reason, Rejection
from schemas.instructions import InstructionTrigger, trigger_id_of
from streams.watermarks import FOREVER_MS
from streams.windows import WindowConfig, window_start_ms
from tests.agents.test_reward_join import did, impression
from tests.faults.traffic import Ledger
from tests.faults.verdict import Observed, Verdict, judge, recount_linear
from tests.streams.window_recount import recount

WINDOWS = WindowConfig(window_ms=2_000, grace_ms=1_000)
START_MS = window_start_ms("ann", 1_700_000_000_000, WINDOWS)
POISON = b'{"poison'


def cart(event_id: str, at_ms: int, user: str = "ann") -> UserAction:
    kind = ActionType.CART
    return UserAction(event_id=event_id, user_id=user, action=kind, event_time_ms=at_ms)


def window(start_ms: int, *actions: UserAction) -> InstructionTrigger:
    return InstructionTrigger(
        trigger_id=trigger_id_of("ann", start_ms),
        user_id="ann",
        window_start_ms=start_ms,
        window_end_ms=start_ms + WINDOWS.window_ms,
        actions=list(actions),
    )


def letter(value: bytes) -> DeadLetter:
    why = Rejection(reason=Reason.MALFORMED_JSON, field="", found="", wanted="")
    return DeadLetter(
        rejection=why,
        topic="actions",
        partition=0,
        offset=0,
        key=None,
        value=value,
        worker="router",
        attempts=1,
        dead_ms=0,
    )


A, B, C = cart("a", START_MS + 900), cart("b", START_MS + 100), cart("c", START_MS + 2_000)
LATE = cart("late", START_MS + 1)
FIRST, SECOND = window(START_MS, B, A), window(START_MS + 2_000, C)
REWARD = join(impression("r", "ann"), [did("click", "b", "r")], 9)


def assigned(sid: int) -> SidAssignment:
    return SidAssignment(
        item_key=1,
        item_id="umbrella",
        sid=[sid],
        generation=1,
        embedding=b"",
        in_stock=True,
        scenarios=None,
        published_ms=0,
    )


def clean() -> tuple[Ledger, Observed]:
    """Two windows of one user, a clicked impression, one record of poison, an item, a profile."""
    ledger = Ledger(
        actions={action.event_id: action for action in (A, B, C, LATE)},
        impressions={"r": 1_000},
        clicks={"r": 1_500},
        poison={POISON},
        poison_sent={POISON},
        items={"umbrella": 5},
        profiles={"ann": 6},
    )
    seen = Observed(
        history={"ann": ["a", "b", "c", "late"]},
        high_value=[[A, B, A, Watermark(watermark_ms=START_MS + 3_000), LATE, C]],
        triggers=[FIRST, SECOND, SECOND],
        stored={"ann": SECOND.until_ms},
        logged={"ann": SECOND.until_ms},
        rewards=[REWARD, REWARD],
        letters=[letter(POISON), letter(POISON)],
        items={"umbrella": 5},
        profiles={"ann": 7},  # a change without an acknowledgement may have come through
        assignments=[assigned(3), assigned(3)],
    )
    return ledger, seen


def verdict(**planted: object) -> Verdict:
    ledger, seen = clean()
    return judge(ledger, replace(seen, **planted), WINDOWS, most_late=0.25)  # type: ignore[arg-type]


def test_a_clean_run_passes_and_equal_repeats_are_counted() -> None:
    found = verdict()
    assert found.violations == {}
    assert (found.actions, found.windows, found.late, found.repeats) == (4, 2, 1, 2)
    assert (found.buried, found.poison) == (1, 1)


@pytest.mark.parametrize(
    ("violation", "planted"),
    [
        ("lost_actions", {"history": {"ann": ["a", "c", "late"]}}),
        ("lost_actions", {"history": {"ann": ["a", "a", "b", "c", "late"]}}),
        ("lost_windows", {"triggers": [SECOND]}),
        ("wrong_windows", {"triggers": [window(START_MS, A), SECOND]}),
        ("wrong_windows", {"triggers": [FIRST, SECOND, window(START_MS - 4_000, C)]}),
        ("closed_twice", {"triggers": [FIRST, SECOND, window(START_MS, B)]}),
        ("old_instructions", {"stored": {"ann": FIRST.until_ms}}),
        ("old_instructions", {"stored": {}}),
        ("old_instructions", {"logged": {"ann": FIRST.until_ms}}),
        ("lost_rewards", {"rewards": []}),
        ("lost_rewards", {"rewards": [join(impression("r", "ann"), [], 9)]}),
        ("doubled_rewards", {"rewards": [REWARD, msgspec.structs.replace(REWARD, outcomes=[])]}),
        ("lost_changes", {"items": {"umbrella": 4}}),
        ("lost_changes", {"profiles": {}}),
        ("lost_changes", {"assignments": []}),
        ("moved_sids", {"assignments": [assigned(3), assigned(4)]}),
        ("lost_poison", {"letters": []}),
        ("innocent_letters", {"letters": [letter(POISON), letter(b"good")]}),
    ],
)
def test_each_planted_violation_is_seen(violation: str, planted: dict[str, object]) -> None:
    assert list(verdict(**planted).violations) == [violation]


def test_a_watermark_that_ran_ahead_does_not_pass_as_lateness() -> None:
    ahead = [[Watermark(watermark_ms=FOREVER_MS), A, B, LATE, C]]
    found = verdict(high_value=ahead, triggers=[], stored={}, logged={})
    assert found.violations == {"late_actions": ["a", "b", "c", "late"]}


def test_an_action_that_was_not_forwarded_is_lost() -> None:
    found = verdict(high_value=[[A, B, Watermark(watermark_ms=START_MS + 3_000), LATE]])
    assert found.lost_actions == ["c"]


def test_a_click_after_the_attribution_window_is_not_missed() -> None:
    ledger, seen = clean()
    ledger.clicks["r"] = 9_000
    without = replace(seen, rewards=[join(impression("r", "ann"), [], 9)])
    assert judge(ledger, without, WINDOWS, most_late=0.25).violations == {}


def records() -> st.SearchStrategy[list[HighValueRecord]]:
    at = st.integers(START_MS, START_MS + 12_000)
    event = st.sampled_from("abcdefgh")
    action = st.builds(lambda e, t: cart(e, t, f"user-{ord(e) % 3}"), event, at)
    return st.lists(st.one_of(action, st.builds(lambda t: Watermark(watermark_ms=t), at)))


@given(records())
def test_the_linear_recount_is_that_of_the_window_tests(log: list[HighValueRecord]) -> None:
    found, _ = recount_linear([log], WINDOWS)
    assert found == recount([*log, Watermark(watermark_ms=FOREVER_MS)], WINDOWS).triggers
