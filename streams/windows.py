"""Tumbling event-time windows, staggered per user (FLOW, Windows). Pure: no clock, no socket.

Length, grace, stagger and the moment of the trigger are `WindowConfig`, set by
`OXYGENREC_WINDOWS__WINDOW_MS` and the like. `PartitionWindows` decides; its caller keeps the rows,
sends the triggers and says when it is done. Whatever the moment, a window has one trigger.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Literal

from msgspec import Struct

from schemas.actions import UserAction
from schemas.codec import encode
from schemas.instructions import InstructionTrigger, trigger_id_of

# A row is rewritten with every action, and its trigger must pass the codec (256 KiB): what a
# reasoner reads is far less than either.
MAX_WINDOW_ACTIONS = 64
MAX_ROW_BYTES = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """Length and grace of a window; `stagger` spreads the closing times over one window length.

    `trigger`: `close` speaks about the whole window when it has closed; `first` about its first
    action as soon as it arrives, and what follows in the window waits for the next one.
    """

    window_ms: int = 300_000
    grace_ms: int = 10_000
    stagger: bool = True
    trigger: Literal["close", "first"] = "close"


class WindowRow(Struct, frozen=True, kw_only=True, tag_field="schema", tag="window_row/1"):
    """One open window: its first 64 actions, as in the log, and the last offset applied.

    `triggered`: its trigger was sent with the first action, so that closing it sends none.
    """

    partition: int
    user_id: str
    window_start_ms: int
    window_end_ms: int
    actions: list[UserAction]
    last_offset: int
    triggered: bool = False


class WatermarkRow(Struct, frozen=True, kw_only=True, tag_field="schema", tag="watermark_row/1"):
    """Row `!p`: the trigger of every window due at `watermark_ms` has been acknowledged."""

    partition: int
    watermark_ms: int
    last_offset: int


class Outcome(StrEnum):
    """What became of one action."""

    ADDED = "added"
    APPLIED = "applied"  # its offset was applied before a restart or a rebalance
    DUPLICATE = "duplicate"
    LATE = "late"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The outcome of one action; when it was added, `value` (the row) must be kept under `key`.

    A `trigger` must be sent: the offset may only be committed, and a later watermark only be
    applied, when row and trigger are acknowledged. An offset that comes again brings it again.
    """

    outcome: Outcome
    key: bytes = b""
    value: bytes = b""
    trigger: InstructionTrigger | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What a watermark asks for, in this order: send `triggers`, keep `marker`, delete `keys`.

    `windows`: how many close now. One whose trigger went out with its first action has none here.
    """

    windows: int
    triggers: list[InstructionTrigger]
    marker_key: bytes
    marker: WatermarkRow
    keys: list[bytes]


class PartitionWindows:
    """The open windows of one partition of `high-value-actions`."""

    def __init__(
        self,
        partition: int,
        config: WindowConfig,
        rows: Iterable[WindowRow] = (),
        marker: WatermarkRow | None = None,
    ) -> None:
        """Starts from the rows that the table holds: `applied` is the largest offset in them."""
        self.partition = partition
        self.watermark_ms = marker.watermark_ms if marker else None
        self.applied = marker.last_offset if marker else -1
        self._config = config
        self._open: dict[bytes, WindowRow] = {}
        self._ends: list[tuple[int, bytes]] = []
        for row in rows:
            self._keep(row_key(row.user_id, row.window_start_ms), row)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def keys(self) -> list[bytes]:
        """The keys of all rows, the marker's included."""
        return [*self._open, marker_key(self.partition)]

    def observe(self, action: UserAction, offset: int) -> Observed:
        """Puts an action into its window, unless its offset, event id or time forbids it."""
        start_ms = window_start_ms(action.user_id, action.event_time_ms, self._config)
        key = row_key(action.user_id, start_ms)
        row = self._open.get(key)
        if offset <= self.applied:
            return Observed(outcome=Outcome.APPLIED, trigger=_sent_with(action, row))
        end_ms = start_ms + self._config.window_ms
        if self._is_due(end_ms, self.watermark_ms):
            return Observed(outcome=Outcome.LATE)
        actions = row.actions if row else []
        if any(kept.event_id == action.event_id for kept in actions):
            return Observed(outcome=Outcome.DUPLICATE)
        if len(actions) >= MAX_WINDOW_ACTIONS:
            return Observed(outcome=Outcome.FULL)
        added = WindowRow(
            partition=self.partition,
            user_id=action.user_id,
            window_start_ms=start_ms,
            window_end_ms=end_ms,
            actions=[*actions, action],
            last_offset=offset,
            triggered=row.triggered if row else self._config.trigger == "first",
        )
        value = encode(added)
        if len(value) > MAX_ROW_BYTES:
            return Observed(outcome=Outcome.FULL)
        self._keep(key, added)
        trigger = None if row else _sent_with(action, added)
        return Observed(outcome=Outcome.ADDED, key=key, value=value, trigger=trigger)

    def erase(self, user_id: str, offset: int) -> list[bytes]:
        """Forgets the user's windows with actions up to `offset`; returns the rows to delete.

        An erasure that comes again finds nothing, or what a crash left over: a window that was
        opened behind it has a larger offset and stays.
        """
        gone = {
            key
            for key, row in self._open.items()
            if row.user_id == user_id and row.last_offset <= offset
        }
        for key in gone:
            del self._open[key]
        self._ends = [entry for entry in self._ends if entry[1] not in gone]
        heapq.heapify(self._ends)
        return sorted(gone)

    def advance(self, watermark_ms: int, offset: int) -> Closing | None:
        """Returns what this watermark closes, None when it changes nothing; `closed` makes it so.

        A window that was due at the marker's watermark has had its trigger: it is only deleted.
        """
        if offset <= self.applied:
            return None
        if self.watermark_ms is not None and watermark_ms <= self.watermark_ms:
            return None
        due = self._due(watermark_ms)
        rows = [self._open[key] for key in due]
        closing = [row for row in rows if not self._is_due(row.window_end_ms, self.watermark_ms)]
        return Closing(
            windows=len(closing),
            triggers=[trigger_of(row) for row in closing if not row.triggered],
            marker_key=marker_key(self.partition),
            marker=WatermarkRow(
                partition=self.partition, watermark_ms=watermark_ms, last_offset=offset
            ),
            keys=due,
        )

    def closed(self, closing: Closing) -> None:
        """Forgets the windows of a closing: triggers are acknowledged, the marker is kept."""
        for key in closing.keys:
            del self._open[key]
        for _ in closing.keys:  # they are the ones that end first
            heapq.heappop(self._ends)
        self.watermark_ms = closing.marker.watermark_ms
        self.applied = closing.marker.last_offset

    def _due(self, watermark_ms: int) -> list[bytes]:
        """Walks the heap from its root and turns back at windows that stay open: O(windows due)."""
        due, places = [], [0]
        while places:
            place = places.pop()
            if place < len(self._ends) and self._is_due(self._ends[place][0], watermark_ms):
                due.append(self._ends[place])
                places += [2 * place + 1, 2 * place + 2]
        return [key for _, key in sorted(due)]

    def _keep(self, key: bytes, row: WindowRow) -> None:
        if key not in self._open:
            heapq.heappush(self._ends, (row.window_end_ms, key))
        self._open[key] = row
        self.applied = max(self.applied, row.last_offset)

    def _is_due(self, end_ms: int, watermark_ms: int | None) -> bool:
        return watermark_ms is not None and end_ms + self._config.grace_ms <= watermark_ms


def trigger_of(row: WindowRow) -> InstructionTrigger:
    """Returns the one trigger of a closed window, its actions by event time (ties: as logged)."""
    return _trigger(row, sorted(row.actions, key=lambda action: action.event_time_ms), None)


def _sent_with(action: UserAction, row: WindowRow | None) -> InstructionTrigger | None:
    """Returns the trigger that goes out with this action: the row's first, of such a window."""
    if row is None or not row.triggered or row.actions[0].event_id != action.event_id:
        return None
    return _trigger(row, row.actions[:1], row.actions[0].event_time_ms + 1)


def _trigger(row: WindowRow, actions: list[UserAction], as_of_ms: int | None) -> InstructionTrigger:
    return InstructionTrigger(
        trigger_id=trigger_id_of(row.user_id, row.window_start_ms),
        user_id=row.user_id,
        window_start_ms=row.window_start_ms,
        window_end_ms=row.window_end_ms,
        actions=actions,
        as_of_ms=as_of_ms,
    )


def row_key(user_id: str, start_ms: int) -> bytes:
    """Returns the table's key of a window; user ids may hold colons too, the last one separates."""
    return trigger_id_of(user_id, start_ms).encode()


def marker_key(partition: int) -> bytes:
    """Returns the table's key of a partition's watermark; without a colon, so no window has it."""
    return b"!%d" % partition


def phase_ms(user_id: str, config: WindowConfig) -> int:
    """Returns the offset of a user's windows in [0, window_ms): they do not all close at once."""
    if not config.stagger:
        return 0
    digest = blake2b(user_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % config.window_ms


def window_start_ms(user_id: str, event_time_ms: int, config: WindowConfig) -> int:
    """Returns the start of the window `[start, start + window_ms)` that holds the event."""
    phase = phase_ms(user_id, config)
    return (event_time_ms - phase) // config.window_ms * config.window_ms + phase
