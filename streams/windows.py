"""Tumbling event-time windows, staggered per user (FLOW, Windows). Pure: no clock, no socket.

Length, grace, stagger and the moment of the trigger are `WindowConfig`, set by
`OXYGENREC_WINDOWS__WINDOW_MS` and the like. `PartitionWindows` decides; its caller sends triggers
and keeps rows (`streams/window_rows.py`), in the order of `Effects`. A window has one trigger.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from schemas.actions import UserAction
from schemas.instructions import InstructionTrigger
from streams.window_rows import OpenWindow, Outcome, WatermarkRow, WindowRow, row_key


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What the records since the last effects ask for. The order is what survives a crash:

    1. send `triggers` and await their acknowledgements;
    2. keep `marker` under its key and, where it `closed` windows, await that too;
    3. keep or delete (None) `rows`; the offsets are done when these are acknowledged.

    `closed` counts windows that closed now; one that spoke with its first action has no trigger.
    """

    triggers: list[InstructionTrigger]
    marker: WatermarkRow | None
    rows: dict[bytes, WindowRow | None]
    closed: int


class PartitionWindows:
    """The open windows of one partition of `high-value-actions`.

    `observe`, `erase` and `advance` take its records in order; `take_effects` says what they ask
    for. How many records lie between two effects changes no trigger. After a crash the log is read
    again from any offset whose effects may be missing, on whatever part of the rows was kept.
    """

    def __init__(
        self,
        partition: int,
        config: WindowConfig,
        rows: Iterable[WindowRow] = (),
        marker: WatermarkRow | None = None,
    ) -> None:
        """Starts from the rows that the table holds.

        A window that the marker says has spoken was left over by a crash: it is only deleted.
        """
        self.partition = partition
        self._config = config
        self._watermark_ms = marker.watermark_ms if marker else None
        self._closed_ms = _closed_by(marker, config) if marker else None
        self._open: dict[bytes, OpenWindow] = {}
        self._ends: list[tuple[int, bytes]] = []
        self._kept: set[bytes] = set()  # keys that the table holds
        self._changed: dict[bytes, None] = {}  # keys to keep or delete, in order
        self._marker_offset: int | None = None  # of a watermark whose marker is not kept yet
        self._triggers: list[InstructionTrigger] = []
        self._closed = 0
        for row in rows:
            key = row_key(row.user_id, row.window_start_ms)
            self._kept.add(key)
            if self._has_closed(row.window_end_ms):
                self._changed[key] = None
            else:
                self._begin(key, OpenWindow.of(row))

    def __len__(self) -> int:
        return len(self._open)

    def observe(self, action: UserAction, offset: int) -> Outcome:
        """Puts an action into its window, unless it is late, there already, or too much."""
        start_ms = window_start_ms(action.user_id, action.event_time_ms, self._config)
        end_ms = start_ms + self._config.window_ms
        if self._has_closed(end_ms):
            return Outcome.LATE
        key = row_key(action.user_id, start_ms)
        window = self._open.get(key)
        if window is None:
            window = OpenWindow(user_id=action.user_id, start_ms=start_ms, end_ms=end_ms)
        outcome = window.add(action, offset)
        if outcome is Outcome.ADDED:
            self._changed[key] = None
            if key not in self._open:
                self._begin(key, window)
                if self._config.trigger == "first":
                    window.triggered = True
                    self._triggers.append(window.first_trigger())
        return outcome

    def erase(self, user_id: str) -> int:
        """Forgets the user's open windows; returns how many.

        Where it comes again, what came behind it comes again too, and opens its windows anew.
        """
        gone = [key for key, window in self._open.items() if window.user_id == user_id]
        for key in gone:
            del self._open[key]
            self._changed[key] = None
        return len(gone)

    def advance(self, watermark_ms: int, offset: int) -> None:
        """Closes the windows that end, with the grace, at or before the watermark."""
        if self._watermark_ms is not None and watermark_ms <= self._watermark_ms:
            return
        self._watermark_ms, self._marker_offset = watermark_ms, offset
        closed_ms = watermark_ms - self._config.grace_ms
        self._closed_ms = closed_ms if self._closed_ms is None else max(closed_ms, self._closed_ms)
        while self._ends and self._has_closed(self._ends[0][0]):
            _, key = heapq.heappop(self._ends)
            if (window := self._open.pop(key, None)) is None:
                continue  # it was erased
            self._changed[key] = None
            self._closed += 1
            if not window.triggered:
                self._triggers.append(window.closing_trigger())

    def take_effects(self) -> Effects:
        """Returns the effects of all records since the last call."""
        rows: dict[bytes, WindowRow | None] = {}
        for key in self._changed:
            window = self._open.get(key)
            if window is not None:
                rows[key] = window.row(self.partition)
                self._kept.add(key)
            elif key in self._kept:  # else it began and ended between two effects
                rows[key] = None
                self._kept.discard(key)
        effects = Effects(
            triggers=self._triggers, marker=self._marker(), rows=rows, closed=self._closed
        )
        self._changed, self._triggers = {}, []
        self._marker_offset, self._closed = None, 0
        return effects

    def _marker(self) -> WatermarkRow | None:
        if self._marker_offset is None or self._watermark_ms is None:
            return None
        return WatermarkRow(
            partition=self.partition,
            watermark_ms=self._watermark_ms,
            last_offset=self._marker_offset,
            closed_ms=self._closed_ms,
        )

    def _begin(self, key: bytes, window: OpenWindow) -> None:
        self._open[key] = window
        heapq.heappush(self._ends, (window.end_ms, key))

    def _has_closed(self, end_ms: int) -> bool:
        return self._closed_ms is not None and end_ms <= self._closed_ms


def _closed_by(marker: WatermarkRow, config: WindowConfig) -> int:
    """Returns the end of the last window that has spoken, whatever the grace was then."""
    if marker.closed_ms is not None:
        return marker.closed_ms
    return marker.watermark_ms - config.grace_ms


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
