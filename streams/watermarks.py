"""How far event time has come in one source partition (FLOW, Windows). Pure: clocks are passed in.

A watermark travels in band, behind the records it speaks about, so that it can never overtake them.
"""

from typing import Literal

Clock = Literal["live", "event"]

# What a replayer appends at its end: later than any event, and exact in JSON's doubles.
FOREVER_MS = 2**53 - 1


class SourceWatermark:
    """The watermark of one source partition: it only rises; None while nothing is known."""

    def __init__(self, clock: Clock, live_lag_ms: int) -> None:
        """`live_lag_ms`: how far a live watermark stays behind the wall clock."""
        self._clock = clock
        self._live_lag_ms = live_lag_ms
        self.watermark_ms: int | None = None

    def observe(self, event_time_ms: int, append_time_ms: int) -> None:
        """Follows one record: `w = max(w, min(event time, append time))`.

        The append time keeps a producer whose clock runs ahead from closing other users' windows.
        """
        self._raise(min(event_time_ms, append_time_ms))

    def read_to_end(self, now_ms: int) -> None:
        """Follows the wall clock where the partition was found read to its end at `now_ms`.

        `now_ms` must have been read *before* the end was asked for. A replay ignores it.
        """
        if self._clock == "live":
            self._raise(now_ms - self._live_lag_ms)

    def _raise(self, to_ms: int) -> None:
        if self.watermark_ms is None or to_ms > self.watermark_ms:
            self.watermark_ms = to_ms
