"""Windows against a sorted-list recount: late, early, duplicate, out of order, killed anywhere."""

import contextlib
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.actions import ActionType, HighValueRecord, UserAction, UserErased, Watermark
from schemas.instructions import InstructionTrigger
from streams.watermarks import FOREVER_MS
from streams.windows import (
    MAX_ROW_BYTES,
    MAX_WINDOW_ACTIONS,
    Closing,
    Observed,
    Outcome,
    PartitionWindows,
    WatermarkRow,
    WindowConfig,
    WindowRow,
    phase_ms,
    window_start_ms,
)
from tests.streams.window_recount import recount

PARTITION = 3
CONFIG = WindowConfig(window_ms=100, grace_ms=30)
ROWS: msgspec.json.Decoder[WindowRow | WatermarkRow] = msgspec.json.Decoder(
    WindowRow | WatermarkRow
)


def action(user: str, event: str, at_ms: int, **fields: object) -> UserAction:
    return UserAction(
        event_id=event,
        user_id=user,
        action=ActionType.SEARCH,
        query="umbrella",
        event_time_ms=at_ms,
        **fields,  # type: ignore[arg-type]
    )


ACTIONS = st.builds(
    action,
    st.sampled_from(["ann", "bob", "c:d"]),
    st.integers(0, 30).map(str),  # few ids: duplicates are frequent
    st.integers(0, 600),
)
WATERMARKS = st.builds(lambda at: Watermark(watermark_ms=at), st.integers(0, 700))
ERASURES = st.builds(
    lambda user: UserErased(event_id="e", user_id=user, event_time_ms=0),
    st.sampled_from(["ann", "bob", "c:d"]),
)
LOGS_WITH_ERASURES = st.lists(st.one_of(ACTIONS, ACTIONS, ERASURES, WATERMARKS), max_size=60)
LOGS = st.lists(st.one_of(ACTIONS, ACTIONS, ACTIONS, WATERMARKS), max_size=60)
CONFIGS = st.builds(
    WindowConfig,
    window_ms=st.integers(20, 200),
    grace_ms=st.integers(0, 60),
    stagger=st.booleans(),
    trigger=st.sampled_from(["close", "first"]),
)


class Crash(Exception):
    """The process is killed here."""


@dataclass
class Aggregator:
    """What the Faust agent does with the core, on a table and a topic that survive it."""

    config: WindowConfig
    table: dict[bytes, bytes] = field(default_factory=dict)
    topic: list[InstructionTrigger] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    acknowledged: int = 0  # what may be committed: all effects of the records before it are kept
    steps: int = 0
    steps_left: int | None = None
    trigger_first: bool = False  # which of row and trigger Kafka keeps first is not ours to say

    def process(self, log: list[HighValueRecord], start: int = 0) -> None:
        windows = self.restore()
        for offset in range(start, len(log)):
            record = log[offset]
            if isinstance(record, Watermark):
                closing = windows.advance(record.watermark_ms, offset)
                if closing is not None:
                    self.close(closing)
                    windows.closed(closing)
            elif isinstance(record, UserErased):
                for key in windows.erase(record.user_id, offset):
                    self.step()
                    del self.table[key]
            else:
                observed = windows.observe(record, offset)
                effects = [
                    lambda seen=observed: self.keep(seen),
                    lambda seen=observed: self.send(seen),
                ]
                for effect in reversed(effects) if self.trigger_first else effects:
                    effect()
                if observed.outcome is Outcome.LATE:
                    self.late.append(record.event_id)
            self.acknowledged = offset + 1

    def keep(self, observed: Observed) -> None:
        if observed.outcome is Outcome.ADDED:
            self.step()
            self.table[observed.key] = observed.value

    def send(self, observed: Observed) -> None:
        if observed.trigger is not None:
            self.step()
            self.topic.append(observed.trigger)

    def close(self, closing: Closing) -> None:
        for trigger in closing.triggers:
            self.step()
            self.topic.append(trigger)
        self.step()
        self.table[closing.marker_key] = msgspec.json.encode(closing.marker)
        for key in closing.keys:
            self.step()
            del self.table[key]

    def step(self) -> None:
        self.steps += 1
        if self.steps_left is not None:
            if self.steps_left == 0:
                raise Crash
            self.steps_left -= 1

    def restore(self) -> PartitionWindows:
        rows = [ROWS.decode(value) for value in self.table.values()]
        return PartitionWindows(
            PARTITION,
            self.config,
            [row for row in rows if isinstance(row, WindowRow)],
            next((row for row in rows if isinstance(row, WatermarkRow)), None),
        )

    def triggers(self) -> dict[str, tuple[str, ...]]:
        return {t.trigger_id: tuple(a.event_id for a in t.actions) for t in self.topic}


@given(LOGS, CONFIGS)
def test_triggers_and_late_actions_are_those_of_a_recount(
    log: list[HighValueRecord], config: WindowConfig
) -> None:
    aggregator = Aggregator(config)
    aggregator.process(log)
    expected = recount(log, config)
    assert aggregator.triggers() == expected.triggers
    assert len(aggregator.topic) == len(expected.triggers)  # each once
    assert tuple(aggregator.late) == expected.late


@given(LOGS, CONFIGS)
def test_after_an_infinite_watermark_no_window_is_left(
    log: list[HighValueRecord], config: WindowConfig
) -> None:
    aggregator = Aggregator(config)
    aggregator.process([*log, Watermark(watermark_ms=FOREVER_MS)])
    assert len(aggregator.restore()) == 0
    assert len(aggregator.table) == 1  # the watermark's row


@settings(max_examples=300)
@given(LOGS, CONFIGS, st.integers(0, 10_000), st.integers(0, 60), st.booleans())
def test_killed_at_any_step_and_replayed_from_any_committed_offset_it_ends_the_same(
    log: list[HighValueRecord], config: WindowConfig, kill: int, back: int, trigger_first: bool
) -> None:
    """The committed offset is never ahead of what is kept: a replay starts at or before it."""
    undisturbed = Aggregator(config)
    undisturbed.process(log)
    steps = kill % (undisturbed.steps + 1)  # the last one: not killed
    aggregator = Aggregator(config, steps_left=steps, trigger_first=trigger_first)
    with contextlib.suppress(Crash):
        aggregator.process(log)
    aggregator.steps_left = None
    aggregator.process(log, start=max(0, aggregator.acknowledged - back))
    expected = recount(log, config)
    assert aggregator.triggers() == expected.triggers
    contents: dict[str, InstructionTrigger] = {}
    for trigger in aggregator.topic:  # a repeat has the same id and content
        assert contents.setdefault(trigger.trigger_id, trigger) == trigger


@settings(max_examples=300)
@given(LOGS_WITH_ERASURES, CONFIGS, st.integers(0, 10_000), st.integers(0, 60))
def test_an_erasure_drops_the_open_windows_of_its_user_wherever_it_is_killed(
    log: list[HighValueRecord], config: WindowConfig, kill: int, back: int
) -> None:
    config = replace(config, trigger="close")
    undisturbed = Aggregator(config)
    undisturbed.process(log)
    aggregator = Aggregator(config, steps_left=kill % (undisturbed.steps + 1))
    with contextlib.suppress(Crash):
        aggregator.process(log)
    aggregator.steps_left = None
    aggregator.process(log, start=max(0, aggregator.acknowledged - back))
    expected = recount(log, config)
    assert undisturbed.triggers() == expected.triggers
    assert tuple(undisturbed.late) == expected.late
    assert aggregator.triggers() == expected.triggers


def test_a_user_who_comes_back_in_the_same_window_speaks_about_what_came_after_alone() -> None:
    erased = UserErased(event_id="e", user_id="ann", event_time_ms=160)
    log: list[HighValueRecord] = [
        *(action("ann", "1", 150), action("bob", "2", 150), erased, action("ann", "3", 170)),
        Watermark(watermark_ms=FOREVER_MS),
    ]
    closing = replace(CONFIG, stagger=False)
    for config, wanted in (
        (closing, ["3", "2"]),
        (replace(closing, trigger="first"), ["1", "2", "3"]),
    ):
        aggregator = Aggregator(config)
        aggregator.process(log)
        assert [[a.event_id for a in t.actions] for t in aggregator.topic] == [
            [event] for event in wanted
        ]


def test_a_window_that_spoke_at_once_closes_in_silence_also_under_another_setting() -> None:
    first = WindowConfig(window_ms=100, grace_ms=30, stagger=False, trigger="first")
    log: list[HighValueRecord] = [action("ann", "1", 150), action("ann", "2", 110)]
    aggregator = Aggregator(first)
    aggregator.process(log)
    aggregator.config = WindowConfig(window_ms=100, grace_ms=30, stagger=False)
    aggregator.process([*log, Watermark(watermark_ms=FOREVER_MS)], start=2)
    assert [trigger.actions for trigger in aggregator.topic] == [[log[0]]]
    assert aggregator.topic[0].until_ms == 151  # the next action's own time is not in it


def test_a_window_of_the_other_setting_still_speaks_when_it_closes() -> None:
    log: list[HighValueRecord] = [action("ann", "1", 150), Watermark(watermark_ms=FOREVER_MS)]
    aggregator = Aggregator(WindowConfig(window_ms=100, grace_ms=30, stagger=False))
    aggregator.process(log[:1])
    aggregator.config = WindowConfig(window_ms=100, grace_ms=30, stagger=False, trigger="first")
    aggregator.process(log, start=1)
    assert [trigger.until_ms for trigger in aggregator.topic] == [200]


@given(st.text("ab:é日", min_size=1, max_size=8), st.integers(0, 10**13), CONFIGS)
def test_a_window_is_half_open_and_holds_its_event(
    user: str, at_ms: int, config: WindowConfig
) -> None:
    start = window_start_ms(user, at_ms, config)
    assert start <= at_ms < start + config.window_ms
    assert window_start_ms(user, start, config) == start
    assert window_start_ms(user, start - 1, config) == start - config.window_ms


def test_stagger_spreads_users_and_off_aligns_them() -> None:
    phases = {phase_ms(f"user-{n}", CONFIG) for n in range(1_000)}
    assert len(phases) > 90
    assert phase_ms("user-1", WindowConfig(window_ms=100, stagger=False)) == 0


def test_an_offset_at_or_before_the_last_applied_changes_nothing() -> None:
    windows = PartitionWindows(PARTITION, CONFIG)
    windows.observe(action("ann", "1", 10), offset=7)
    assert windows.observe(action("ann", "2", 11), offset=7).outcome is Outcome.APPLIED
    assert windows.advance(1_000, offset=6) is None


def test_a_window_keeps_64_actions_and_its_row_stays_small_enough_to_travel() -> None:
    windows = PartitionWindows(PARTITION, WindowConfig(window_ms=10_000, stagger=False))
    outcomes = [
        windows.observe(action("ann", str(n), n), offset=n).outcome
        for n in range(MAX_WINDOW_ACTIONS + 1)
    ]
    assert outcomes == [Outcome.ADDED] * MAX_WINDOW_ACTIONS + [Outcome.FULL]
    heavy = action("bob", "x", 1, attributes={str(n): "y" * 512 for n in range(400)})
    assert len(msgspec.json.encode(heavy)) > MAX_ROW_BYTES
    assert windows.observe(heavy, offset=100).outcome is Outcome.FULL


@pytest.mark.parametrize(("watermark_ms", "closes"), [(229, False), (230, True)])
def test_a_window_closes_when_its_end_and_grace_are_reached(
    watermark_ms: int, closes: bool
) -> None:
    windows = PartitionWindows(PARTITION, WindowConfig(window_ms=100, grace_ms=30, stagger=False))
    windows.observe(action("ann", "1", 150), offset=0)
    closing = windows.advance(watermark_ms, offset=1)
    assert closing is not None
    assert bool(closing.triggers) is closes


def test_a_window_left_over_by_a_crash_after_its_marker_is_deleted_and_not_sent_again() -> None:
    log: list[HighValueRecord] = [action("ann", "1", 50), Watermark(watermark_ms=1_000)]
    aggregator = Aggregator(CONFIG, steps_left=3)  # the row, the trigger, the marker
    with pytest.raises(Crash):
        aggregator.process(log)
    aggregator.steps_left = None
    aggregator.process([*log, Watermark(watermark_ms=1_001)])
    assert len(aggregator.topic) == 1
    assert list(aggregator.table) == [b"!%d" % PARTITION]
