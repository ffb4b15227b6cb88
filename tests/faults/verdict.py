"""What must be true after a fault, whatever it was. Pure: ledger and observations in, verdict out.

The windows are recounted from the log of `high-value-actions` alone, its watermarks included: an
action that is late there may be in no window, every other one must be in exactly one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from schemas.actions import HighValueRecord, UserAction, Watermark
from schemas.catalog import SidAssignment
from schemas.dead_letters import DeadLetter
from schemas.instructions import InstructionTrigger
from schemas.rewards import RewardEvent
from streams.window_rows import MAX_WINDOW_ACTIONS
from streams.windows import WindowConfig, window_start_ms
from tests.faults.traffic import KINDS, Ledger

HIGH_VALUE = {kind for kind in KINDS if kind != "click"}
CLICKED = ("b", 0.4)  # the outcome of the click that follows each impression


@dataclass(slots=True)
class Observed:
    """What one scenario left behind.

    `history`: events in Redis by user. `high_value`: the logs of all partitions, watermarks
    included. `stored` and `logged`: by user, the `as_of_ms` of the instruction in Redis and of the
    last one in `instructions`, which is what compaction keeps. `items` and `profiles`: the numbers
    of the changes that Redis shows. `assignments`: what `semantic-ids` says of the items.
    """

    history: dict[str, list[str]] = field(default_factory=dict)
    high_value: Sequence[Sequence[HighValueRecord]] = ()
    triggers: Sequence[InstructionTrigger] = ()
    stored: dict[str, int] = field(default_factory=dict)
    logged: dict[str, int] = field(default_factory=dict)
    rewards: Sequence[RewardEvent] = ()
    letters: Sequence[DeadLetter] = ()
    items: dict[str, int] = field(default_factory=dict)
    profiles: dict[str, int] = field(default_factory=dict)
    assignments: Sequence[SidAssignment] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts beside the names of what is wrong; each list of names is empty after a good run."""

    actions: int
    windows: int
    late: int
    rewards: int
    changed: int  # items and profiles
    poison: int
    buried: int
    unsure: int
    repeats: int  # of triggers and rewards, equal to the first: allowed, and told apart by their id
    lost_actions: list[str]
    lost_windows: list[str]
    wrong_windows: list[str]
    closed_twice: list[str]
    old_instructions: list[str]
    lost_rewards: list[str]
    doubled_rewards: list[str]
    lost_changes: list[str]
    moved_sids: list[str]
    lost_poison: list[str]
    innocent_letters: list[str]
    late_actions: list[str]  # empty as long as they are no more than the fault explains

    @property
    def violations(self) -> dict[str, list[str]]:
        """The lists that are not empty, by name."""
        names = (
            *("lost_actions", "lost_windows", "wrong_windows", "closed_twice", "old_instructions"),
            *("lost_rewards", "doubled_rewards", "lost_changes", "moved_sids"),
            *("lost_poison", "innocent_letters", "late_actions"),
        )
        return {name: found for name in names if (found := getattr(self, name))}


def judge(
    ledger: Ledger,
    seen: Observed,
    windows: WindowConfig,
    attribution_ms: int = 3_000,
    *,
    most_late: float = 0.0,
) -> Verdict:
    """Returns what a run did with what was acknowledged to its producer.

    `most_late`: the share of actions that the fault may make late. The recount believes the log's
    own watermarks: a router whose watermarks ran ahead would make everything late, and lose it.
    """
    expected, late = recount_linear(seen.high_value, windows)
    contents = defaultdict(list)
    for trigger in seen.triggers:
        contents[trigger.trigger_id].append(tuple(a.event_id for a in trigger.actions))
    events = defaultdict(list)
    for event in seen.rewards:
        events[event.request_id].append(event)
    dead = {letter.value for letter in seen.letters}
    sent_again = [*(len(c) - 1 for c in contents.values()), *(len(e) - 1 for e in events.values())]
    return Verdict(
        actions=len(ledger.actions),
        windows=len(expected),
        late=len(late),
        rewards=len(ledger.impressions),
        changed=len(ledger.items) + len(ledger.profiles),
        poison=len(ledger.poison),
        buried=len(ledger.poison & dead),
        unsure=ledger.unsure,
        repeats=sum(sent_again),
        lost_actions=_lost_actions(ledger, seen),
        lost_windows=sorted(expected.keys() - contents.keys()),
        wrong_windows=sorted(
            window for window, found in contents.items() if found[0] != expected.get(window)
        ),
        closed_twice=sorted(window for window, found in contents.items() if len(set(found)) > 1),
        old_instructions=_old_instructions(seen),
        lost_rewards=_lost_rewards(ledger, events, attribution_ms),
        doubled_rewards=sorted(
            request for request, found in events.items() if any(e != found[0] for e in found)
        ),
        lost_changes=_lost_changes(ledger, seen),
        moved_sids=_moved_sids(seen.assignments),
        lost_poison=sorted(map(repr, ledger.poison - dead)),
        innocent_letters=sorted(map(repr, dead - ledger.poison_sent)),
        late_actions=sorted(late) if len(late) > most_late * len(ledger.actions) else [],
    )


def recount_linear(
    logs: Iterable[Sequence[HighValueRecord]], config: WindowConfig
) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Returns event ids by window, and the events that came late and nowhere else.

    Like `tests.streams.window_recount` in one pass; every window is taken to close in the end.
    """
    windows: dict[str, list[UserAction]] = defaultdict(list)
    late: set[str] = set()
    for log in logs:
        watermark_ms = 0
        for record in log:
            if isinstance(record, Watermark):
                watermark_ms = max(watermark_ms, record.watermark_ms)
            elif isinstance(record, UserAction):
                start = window_start_ms(record.user_id, record.event_time_ms, config)
                kept = windows[f"{record.user_id}:{start}"]
                if start + config.window_ms + config.grace_ms <= watermark_ms:
                    late.add(record.event_id)
                elif len(kept) < MAX_WINDOW_ACTIONS and record.event_id not in {
                    action.event_id for action in kept
                }:
                    kept.append(record)
    found = {
        window: tuple(a.event_id for a in sorted(kept, key=lambda a: a.event_time_ms))
        for window, kept in windows.items()
        if kept
    }
    return found, late - {event for events in found.values() for event in events}


def _lost_actions(ledger: Ledger, seen: Observed) -> list[str]:
    """Names acknowledged actions that history does not hold once, or that were not forwarded."""
    forwarded = {
        record.event_id
        for log in seen.high_value
        for record in log
        if isinstance(record, UserAction)
    }
    held = {user: Counter(events) for user, events in seen.history.items()}
    return sorted(
        event
        for event, action in ledger.actions.items()
        if held.get(action.user_id, Counter())[event] != 1
        or (action.action in HIGH_VALUE and event not in forwarded)
    )


def _old_instructions(seen: Observed) -> list[str]:
    """Names users whose instruction, in Redis or in the log, is not of their newest window."""
    newest: dict[str, int] = {}
    for trigger in seen.triggers:
        newest[trigger.user_id] = max(newest.get(trigger.user_id, 0), trigger.until_ms)
    return sorted(
        user
        for user, as_of_ms in newest.items()
        if min(seen.stored.get(user, 0), seen.logged.get(user, 0)) < as_of_ms
    )


def _lost_rewards(
    ledger: Ledger, events: dict[str, list[RewardEvent]], attribution_ms: int
) -> list[str]:
    """Names impressions without a reward event, or whose event misses a click made in time."""
    lost = []
    for request, shown_ms in ledger.impressions.items():
        found = events.get(request, [])
        after_ms = ledger.clicks.get(request, -1) - shown_ms
        in_time = 0 < after_ms < attribution_ms
        credited = any(
            (one.item_id, one.outcome) == CLICKED for event in found for one in event.outcomes
        )
        if not found or (in_time and not credited):
            lost.append(request)
    return sorted(lost)


def _lost_changes(ledger: Ledger, seen: Observed) -> list[str]:
    """Names items and profiles that Redis shows as before their last change, or not at all.

    An item without a semantic ID is lost too.
    """
    assigned = {assignment.item_id for assignment in seen.assignments}
    items = [
        item
        for item, number in ledger.items.items()
        if seen.items.get(item, 0) < number or item not in assigned
    ]
    profiles = [u for u, number in ledger.profiles.items() if seen.profiles.get(u, 0) < number]
    return sorted([*items, *profiles])


def _moved_sids(assignments: Sequence[SidAssignment]) -> list[str]:
    """Names items that were given a second semantic ID: within a generation none ever moves."""
    sids = defaultdict(set)
    for assignment in assignments:
        sids[assignment.item_id].add(tuple(assignment.sid))
    return sorted(item for item, found in sids.items() if len(found) > 1)
