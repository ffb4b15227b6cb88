"""One partition of `impressions` and `actions` together: the log is the timer. Pure.

The head impression is due when the position in `actions` has passed its window, or stands at the
log's end and the clock has. A restart that begins at the same head gives the same reward events:
what counts is decided by append times in the log, never by when this process happened to read.

Windows differ by scenario, the order does not: an impression that is due waits for those before it,
so a short window comes no later into effect than the longest, and never counts more than its own.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from agents.attribution import AttributionTable
from agents.reward_join import JOINED, join
from schemas.actions import ActionRecord, UserAction, UserErased
from schemas.impressions import Impression
from schemas.rewards import RewardEvent

# An impression is sent without waiting for its ack, so an action may be appended before it.
EARLY_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An impression whose window is open."""

    offset: int
    append_ms: int
    impression: Impression


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A head that was due: its reward event, or None where the user was erased in its window."""

    offset: int
    event: RewardEvent | None


class RewardPartition:
    """Impressions that wait, and the actions their windows need, in the order of the log."""

    def __init__(self, attribution: AttributionTable) -> None:
        self._attribution = attribution
        self._waiting: deque[Waiting] = deque()
        self._actions: deque[tuple[int, ActionRecord]] = deque()
        self._by_user: dict[str, deque[tuple[int, ActionRecord]]] = {}
        self._from_ms: int | None = None  # every action from here to the position is in memory
        self._position_ms = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def head_due_ms(self) -> int | None:
        """The end of the head impression's window, by append time."""
        if not self._waiting:
            return None
        head = self._waiting[0]
        return head.append_ms + self._attribution.of(head.impression.scenario).window_ms

    @property
    def rewind_ms(self) -> int | None:
        """Returns the append time that `actions` must be read from anew, or None if it need not."""
        if not self._waiting:
            return None
        needed = self._waiting[0].append_ms - EARLY_MS
        return needed if self._from_ms is None or needed < self._from_ms else None

    def rewound(self, from_ms: int) -> None:
        """Forgets the actions: the log is read again from the first one appended at `from_ms`."""
        self._actions.clear()
        self._by_user.clear()
        self._from_ms = from_ms
        self._position_ms = 0

    def add_impression(self, offset: int, append_ms: int, impression: Impression) -> None:
        """Takes the next impression of the log."""
        self._waiting.append(Waiting(offset=offset, append_ms=append_ms, impression=impression))
        if len(self._waiting) == 1 and self._from_ms is not None:
            self._forget_before(append_ms - EARLY_MS)  # a log without impressions may be long

    def add_action(self, append_ms: int, record: ActionRecord) -> None:
        """Takes the next action of the log."""
        self._position_ms = max(self._position_ms, append_ms)
        wanted = isinstance(record, UserErased) or record.action in JOINED
        if wanted and append_ms >= (self._from_ms or 0):
            seen = (append_ms, record)
            self._actions.append(seen)
            self._by_user.setdefault(record.user_id, deque()).append(seen)

    def pass_position(self, append_ms: int) -> None:
        """Moves the position for a record that is no readable action: it is time all the same."""
        self._position_ms = max(self._position_ms, append_ms)

    def due(self, read_out_ms: int) -> Iterator[Joined]:
        """Yields the heads that are due and forgets them, oldest first.

        `read_out_ms`: up to here nothing more can be appended, and all there is was read; 0 where
        that is not known.
        """
        passed_ms = max(self._position_ms, read_out_ms)
        while (due_ms := self.head_due_ms) is not None and passed_ms > due_ms:
            head = self._waiting.popleft()
            yield Joined(offset=head.offset, event=self._joined(head, due_ms))
            self._forget_before(head.append_ms - EARLY_MS)

    def _joined(self, head: Waiting, due_ms: int) -> RewardEvent | None:
        window: list[UserAction] = []
        for append_ms, record in self._by_user.get(head.impression.user_id, ()):
            if not head.append_ms - EARLY_MS <= append_ms <= due_ms:
                continue
            if isinstance(record, UserAction):
                window.append(record)
            elif append_ms >= head.append_ms:
                return None
            else:
                window.clear()
        mode = self._attribution.of(head.impression.scenario).mode
        return join(head.impression, window, due_ms, mode)

    def _forget_before(self, append_ms: int) -> None:
        """Drops what no later head can need: heads come in the order of their append times."""
        while self._actions and self._actions[0][0] < append_ms:
            _, action = self._actions.popleft()
            mine = self._by_user[action.user_id]
            mine.popleft()
            if not mine:
                del self._by_user[action.user_id]
        self._from_ms = max(self._from_ms or 0, append_ms)
