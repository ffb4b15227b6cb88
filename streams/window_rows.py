"""What the window aggregator keeps of a partition: one row an open window, one its watermark."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from msgspec import Struct

from schemas.actions import UserAction
from schemas.codec import encode
from schemas.instructions import InstructionTrigger, trigger_id_of

# A row is rewritten with every action, and its trigger must pass the codec (256 KiB): what a
# reasoner reads is far less than either.
MAX_WINDOW_ACTIONS = 64
MAX_WINDOW_BYTES = 200_000


class WindowRow(Struct, frozen=True, kw_only=True, tag_field="schema", tag="window_row/1"):
    """One open window: its first 64 actions, as in the log, and the last offset applied to it.

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
    """Row `!p`: the trigger of every window that ends at or before `closed_ms` is acknowledged.

    `closed_ms` was not kept once: then it is the watermark less the grace.
    """

    partition: int
    watermark_ms: int
    last_offset: int
    closed_ms: int | None = None


class Outcome(StrEnum):
    """What became of one action."""

    ADDED = "added"
    DUPLICATE = "duplicate"  # its window holds its event id: sent twice, or read again
    LATE = "late"
    FULL = "full"


@dataclass(slots=True, kw_only=True)
class OpenWindow:
    """A window in memory; `size_bytes`: of its actions on the wire."""

    user_id: str
    start_ms: int
    end_ms: int
    actions: list[UserAction] = field(default_factory=list)
    last_offset: int = -1
    triggered: bool = False
    size_bytes: int = 0

    @classmethod
    def of(cls, row: WindowRow) -> Self:
        """Returns the window that a row holds."""
        return cls(
            user_id=row.user_id,
            start_ms=row.window_start_ms,
            end_ms=row.window_end_ms,
            actions=list(row.actions),
            last_offset=row.last_offset,
            triggered=row.triggered,
            size_bytes=sum(len(encode(action)) for action in row.actions),
        )

    def add(self, action: UserAction, offset: int) -> Outcome:
        """Takes an action in; returns ADDED, or why it is not: DUPLICATE, FULL."""
        if any(kept.event_id == action.event_id for kept in self.actions):
            return Outcome.DUPLICATE
        size_bytes = self.size_bytes + len(encode(action))
        if len(self.actions) >= MAX_WINDOW_ACTIONS or size_bytes > MAX_WINDOW_BYTES:
            return Outcome.FULL
        self.actions.append(action)
        self.last_offset, self.size_bytes = offset, size_bytes
        return Outcome.ADDED

    def row(self, partition: int) -> WindowRow:
        """Returns the window as the table keeps it."""
        return WindowRow(
            partition=partition,
            user_id=self.user_id,
            window_start_ms=self.start_ms,
            window_end_ms=self.end_ms,
            actions=list(self.actions),
            last_offset=self.last_offset,
            triggered=self.triggered,
        )

    def closing_trigger(self) -> InstructionTrigger:
        """Returns the trigger of the closed window, actions by event time (ties: as logged)."""
        return self._trigger(sorted(self.actions, key=lambda action: action.event_time_ms), None)

    def first_trigger(self) -> InstructionTrigger:
        """Returns the trigger that goes out with the first action, and knows of nothing later."""
        return self._trigger(self.actions[:1], self.actions[0].event_time_ms + 1)

    def _trigger(self, actions: list[UserAction], as_of_ms: int | None) -> InstructionTrigger:
        return InstructionTrigger(
            trigger_id=trigger_id_of(self.user_id, self.start_ms),
            user_id=self.user_id,
            window_start_ms=self.start_ms,
            window_end_ms=self.end_ms,
            actions=actions,
            as_of_ms=as_of_ms,
        )


def row_key(user_id: str, start_ms: int) -> bytes:
    """Returns the table's key of a window; user ids may hold colons too, the last one separates."""
    return trigger_id_of(user_id, start_ms).encode()


def marker_key(partition: int) -> bytes:
    """Returns the table's key of a partition's watermark; without a colon, so no window has it."""
    return b"!%d" % partition
