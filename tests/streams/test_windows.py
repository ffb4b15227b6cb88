"""Windows against a sorted-list recount: late, early, duplicate, out of order, killed anywhere."""

import contextlib
import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.actions import ActionType, HighValueRecord, UserAction, UserErased, Watermark
from schemas.instructions import InstructionTrigger
from streams.watermarks import FOREVER_MS
from streams.window_rows import (
    MAX_WINDOW_ACTIONS,
    MAX_WINDOW_BYTES,
    Outcome,
    WatermarkRow,
    WindowRow,
    marker_key,
)
from streams.windows import Effects, PartitionWindows, WindowConfig, phase_ms, window_start_ms
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
    """What the Faust agent does with the core, on a table and a topic that survive it.

    Triggers, and markers that close windows, are awaited. All other writes may be on their way when
    the process is killed, those of the last `unacknowledged` batches: each of them then got there
    or did not, in the order of its key.
    """

    config: WindowConfig
    batches: Iterator[int] = field(default_factory=lambda: itertools.repeat(1))
    unacknowledged: int = 1
    table: dict[bytes, bytes] = field(default_factory=dict)
    topic: list[InstructionTrigger] = field(default_factory=list)
    outcomes: list[tuple[str, Outcome]] = field(default_factory=list)
    committed: int = 0  # all effects of the records before it are kept
    steps: int = 0
    steps_left: int | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def process(self, log: list[HighValueRecord], start: int = 0) -> None:
        windows = self.restore()
        writes: list[Write] = []
        ends: deque[int] = deque()
        try:
            while start < len(log):
                end = min(start + next(self.batches), len(log))
                for offset in range(start, end):
                    self.apply(windows, log[offset], offset)
                self.keep(windows.take_effects(), writes, end)
                ends.append(end)
                if len(ends) > self.unacknowledged:
                    self.committed = ends.popleft()
                start = end
        except Crash:
            self.write(w for w in writes if w.certain(self.committed) or self.rng.random() < 0.5)
            raise
        self.write(writes)
        self.committed = start

    def apply(self, windows: PartitionWindows, record: HighValueRecord, offset: int) -> None:
        if isinstance(record, Watermark):
            windows.advance(record.watermark_ms, offset)
        elif isinstance(record, UserErased):
            windows.erase(record.user_id)
        else:
            self.outcomes.append((record.event_id, windows.observe(record, offset)))

    def keep(self, effects: Effects, writes: list["Write"], end: int) -> None:
        for trigger in effects.triggers:
            self.step()
            self.topic.append(trigger)
        if effects.marker is not None:
            self.step()
            value = msgspec.json.encode(effects.marker)
            writes.append(Write(end, marker_key(PARTITION), value, bool(effects.closed)))
        for key, row in effects.rows.items():
            self.step()
            writes.append(Write(end, key, None if row is None else msgspec.json.encode(row)))

    def write(self, writes: Iterable["Write"]) -> None:
        for one in writes:
            if one.value is None:
                self.table.pop(one.key, None)
            else:
                self.table[one.key] = one.value

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

    def late(self) -> tuple[str, ...]:
        return tuple(event for event, outcome in self.outcomes if outcome is Outcome.LATE)


@dataclass(frozen=True)
class Write:
    """One write to the table, of the batch that ends at `end`."""

    end: int
    key: bytes
    value: bytes | None
    awaited: bool = False

    def certain(self, committed: int) -> bool:
        """Whether Kafka had acknowledged it when all up to `committed` was."""
        return self.awaited or self.end <= committed


def sizes(seed: int) -> Iterator[int]:
    """Batches of one to eight records."""
    rng = random.Random(seed)
    while True:
        yield rng.randint(1, 8)


@dataclass(frozen=True)
class Kill:
    """A kill at a step, with so many batches on their way, and where the next process begins."""

    step: int
    back: int
    seed: int
    unacknowledged: int

    def killed(self, log: list[HighValueRecord], config: WindowConfig) -> Aggregator:
        """Returns what is left when the log was processed, killed and gone on with."""
        undisturbed = Aggregator(config, sizes(self.seed))
        undisturbed.process(log)
        aggregator = Aggregator(
            config, sizes(self.seed), self.unacknowledged, rng=random.Random(self.seed)
        )
        aggregator.steps_left = self.step % (undisturbed.steps + 1)  # the last one: not killed
        with contextlib.suppress(Crash):
            aggregator.process(log)
        aggregator.steps_left = None
        aggregator.process(log, start=max(0, aggregator.committed - self.back))
        return aggregator


KILLS = st.builds(
    Kill,
    step=st.integers(0, 10_000),
    back=st.integers(0, 60),
    seed=st.integers(0, 10_000),
    unacknowledged=st.integers(1, 4),
)


@given(LOGS, CONFIGS, st.integers(0, 10_000))
def test_triggers_and_late_actions_are_those_of_a_recount_however_records_are_batched(
    log: list[HighValueRecord], config: WindowConfig, seed: int
) -> None:
    aggregator = Aggregator(config, sizes(seed))
    aggregator.process(log)
    expected = recount(log, config)
    assert aggregator.triggers() == expected.triggers
    assert len(aggregator.topic) == len(expected.triggers)  # each once
    assert aggregator.late() == expected.late


@given(LOGS, CONFIGS, st.integers(0, 10_000))
def test_after_an_infinite_watermark_no_window_is_left(
    log: list[HighValueRecord], config: WindowConfig, seed: int
) -> None:
    aggregator = Aggregator(config, sizes(seed))
    aggregator.process([*log, Watermark(watermark_ms=FOREVER_MS)])
    assert len(aggregator.restore()) == 0
    assert len(aggregator.table) == 1  # the watermark's row


@settings(max_examples=500)
@given(LOGS, CONFIGS, KILLS)
def test_killed_at_any_step_and_replayed_from_any_committed_offset_it_ends_the_same(
    log: list[HighValueRecord], config: WindowConfig, kill: Kill
) -> None:
    """The committed offset is never ahead of what is kept: a replay starts at or before it."""
    aggregator = kill.killed(log, config)
    assert aggregator.triggers() == recount(log, config).triggers
    contents: dict[str, InstructionTrigger] = {}
    for trigger in aggregator.topic:  # a repeat has the same id and content
        assert contents.setdefault(trigger.trigger_id, trigger) == trigger


@settings(max_examples=500)
@given(LOGS_WITH_ERASURES, CONFIGS, KILLS)
def test_an_erasure_drops_the_open_windows_of_its_user_wherever_it_is_killed(
    log: list[HighValueRecord], config: WindowConfig, kill: Kill
) -> None:
    config = replace(config, trigger="close")
    undisturbed = Aggregator(config)
    undisturbed.process(log)
    expected = recount(log, config)
    assert undisturbed.triggers() == expected.triggers
    assert undisturbed.late() == expected.late
    assert kill.killed(log, config).triggers() == expected.triggers


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


def test_a_window_keeps_64_actions_and_its_row_stays_small_enough_to_travel() -> None:
    windows = PartitionWindows(PARTITION, WindowConfig(window_ms=10_000, stagger=False))
    outcomes = [
        windows.observe(action("ann", str(n), n), offset=n) for n in range(MAX_WINDOW_ACTIONS + 1)
    ]
    assert outcomes == [Outcome.ADDED] * MAX_WINDOW_ACTIONS + [Outcome.FULL]
    heavy = action("bob", "x", 1, attributes={str(n): "y" * 512 for n in range(400)})
    assert len(msgspec.json.encode(heavy)) > MAX_WINDOW_BYTES
    assert windows.observe(heavy, offset=100) is Outcome.FULL
    assert [row and row.user_id for row in windows.take_effects().rows.values()] == ["ann"]


@pytest.mark.parametrize(("watermark_ms", "closes"), [(229, False), (230, True)])
def test_a_window_closes_when_its_end_and_grace_are_reached(
    watermark_ms: int, closes: bool
) -> None:
    windows = PartitionWindows(PARTITION, WindowConfig(window_ms=100, grace_ms=30, stagger=False))
    windows.observe(action("ann", "1", 150), offset=0)
    windows.advance(watermark_ms, offset=1)
    effects = windows.take_effects()
    assert (bool(effects.triggers), effects.closed) == (closes, int(closes))
    assert list(effects.rows.values()).count(None) == 0  # opened and closed at once: no row at all


def test_a_window_left_over_by_a_crash_after_its_marker_is_deleted_and_not_sent_again() -> None:
    log: list[HighValueRecord] = [action("ann", "1", 50), Watermark(watermark_ms=1_000)]
    aggregator = Aggregator(CONFIG, unacknowledged=0, steps_left=3)  # row, trigger, marker
    with pytest.raises(Crash):
        aggregator.process(log)
    assert len(aggregator.table) == 2
    aggregator.steps_left = None
    aggregator.process([*log, Watermark(watermark_ms=1_001)])
    assert len(aggregator.topic) == 1
    assert list(aggregator.table) == [b"!%d" % PARTITION]


@pytest.mark.parametrize("grace_ms", [0, 500])
def test_another_grace_after_a_restart_neither_loses_nor_repeats_a_window(grace_ms: int) -> None:
    log: list[HighValueRecord] = [
        *(action("ann", "1", 150), Watermark(watermark_ms=230)),  # [100, 200) has closed
        *(action("bob", "2", 210), action("ann", "3", 160)),
        Watermark(watermark_ms=FOREVER_MS),
    ]
    aggregator = Aggregator(WindowConfig(window_ms=100, grace_ms=30, stagger=False))
    aggregator.process(log[:3])
    aggregator.config = WindowConfig(window_ms=100, grace_ms=grace_ms, stagger=False)
    aggregator.process(log, start=3)
    assert aggregator.late() == ("3",)
    assert [[a.event_id for a in t.actions] for t in aggregator.topic] == [["1"], ["2"]]


def test_a_marker_of_before_closed_ms_was_kept_says_the_watermark_less_the_grace() -> None:
    marker = ROWS.decode(
        b'{"schema":"watermark_row/1","partition":3,"watermark_ms":230,"last_offset":1}'
    )
    assert isinstance(marker, WatermarkRow)
    config = WindowConfig(window_ms=100, grace_ms=30, stagger=False)
    windows = PartitionWindows(PARTITION, config, marker=marker)
    assert windows.observe(action("ann", "1", 150), offset=2) is Outcome.LATE
    assert windows.observe(action("ann", "2", 250), offset=3) is Outcome.ADDED
