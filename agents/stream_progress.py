"""Keeps a Faust agent's place in its partitions: nothing skipped, nothing acknowledged early.

Faust gives records to an agent and commits what the agent has acknowledged. It does not tell when
it passes over an offset, and it may commit past one that is not acknowledged yet; both would lose
actions.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from schemas.errors import OxygenRecError


class OffsetsSkipped(OxygenRecError):
    """Records between two that were delivered are missing: nothing after them may be applied."""

    def __init__(self, *, partition: int, found: int, wanted: int) -> None:
        self.partition = partition
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"partition {partition}: found offset {found}, wanted {wanted}: records were passed"
            " over; the worker must start again from the committed offset"
        )


@dataclass(slots=True)
class InHand:
    """One delivered event, and whether everything it wrote is acknowledged."""

    partition: int
    event: Any
    finished: bool = False


class StreamProgress:
    """The places of all assigned partitions."""

    def __init__(self, first_unread: Callable[[int], Awaitable[int]]) -> None:
        """`first_unread(partition)`: the offset at which the group goes on after an assignment."""
        self._first_unread = first_unread
        self._next: dict[int, int] = {}
        self._in_hand: dict[int, deque[InHand]] = {}

    def reset(self) -> None:
        """Forgets all places: after an assignment the committed offsets decide anew."""
        self._next.clear()
        self._in_hand.clear()

    async def deliver(self, partition: int, offset: int, event: Any) -> InHand:
        """Takes an event in hand. Raises `OffsetsSkipped` when records before it are missing.

        The log has no gaps (one idempotent producer, no compaction, no transactions); an offset
        that was delivered before is no gap.
        """
        if partition not in self._next:
            self._next[partition] = await self._first_unread(partition)
        wanted = self._next[partition]
        if offset > wanted:
            raise OffsetsSkipped(partition=partition, found=offset, wanted=wanted)
        self._next[partition] = max(wanted, offset + 1)
        entry = InHand(partition, event)
        self._in_hand.setdefault(partition, deque()).append(entry)
        return entry

    def finish(self, entry: InHand) -> None:
        """Acknowledges the event as soon as all events before it in its partition are finished."""
        entry.finished = True
        waiting = self._in_hand.get(entry.partition)
        while waiting and waiting[0].finished:
            waiting.popleft().event.ack()
