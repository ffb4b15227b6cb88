"""A budget of tokens a minute: what a language model may cost, whatever arrives."""

from collections.abc import Callable


class TokenBudget:
    """A bucket that fills evenly: at most a minute's tokens at once, `per_minute` in the long run.

    Pure but for `monotonic` (seconds); one event loop.
    """

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._left = float(per_minute)
        self._filled_s = monotonic()

    def reserve(self, tokens: int) -> bool:
        """Takes `tokens` and returns True, or takes nothing where fewer are left."""
        self._fill()
        if tokens > self._left:
            return False
        self._left -= tokens
        return True

    def settle(self, reserved: int, used: int) -> None:
        """Gives back what a call did not use; one that used more than it reserved owes it."""
        self._left = min(self._per_minute, self._left + reserved - used)

    def _fill(self) -> None:
        now_s = self._monotonic()
        grown = (now_s - self._filled_s) / 60 * self._per_minute
        self._left = min(self._per_minute, self._left + grown)
        self._filled_s = now_s


def estimated_tokens(text: str) -> int:
    """Returns more tokens than `text` is likely to have: one for three bytes (English: four)."""
    return len(text.encode()) // 3 + 1
