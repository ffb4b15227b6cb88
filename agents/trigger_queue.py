"""Which trigger is worked on next: one a user, the newest, triggers before refreshes. Pure.

A trigger that is still waiting when a newer one of its user arrives would write an instruction that
nobody reads: the newer one takes its place in the queue. Nothing is lost by that: the newer trigger
comes later in the same partition (or, before a refresh, from the topic that outranks it), so its
offset is not committed before its own instruction is written.
"""

from collections.abc import Collection
from dataclasses import dataclass

from schemas.instructions import InstructionTrigger
from streams.dead_letters import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """One decoded record and where it came from; `refresh`: from `instruction-refreshes`."""

    trigger: InstructionTrigger
    source: Source
    refresh: bool

    @property
    def rank(self) -> tuple[bool, int]:
        """What a waiting record is compared by: a trigger before a refresh, then the newer end."""
        return not self.refresh, self.trigger.until_ms


class TriggerQueue:
    """What was read and is not begun, and which users are in hand."""

    def __init__(self, refreshes_in_hand: int) -> None:
        """`refreshes_in_hand`: at most so many at once, so that a trigger finds a free place."""
        self._most_refreshes = refreshes_in_hand
        self._triggers: dict[str, Queued] = {}
        self._refreshes: dict[str, Queued] = {}
        self._in_hand: dict[bool, set[str]] = {False: set(), True: set()}  # users, by `refresh`

    @property
    def triggers(self) -> int:
        """How many triggers wait."""
        return len(self._triggers)

    @property
    def refreshes(self) -> int:
        """How many refreshes wait."""
        return len(self._refreshes)

    @property
    def in_hand(self) -> int:
        """How many were taken and are not done."""
        return sum(map(len, self._in_hand.values()))

    def offer(self, arrived: Queued) -> Queued | None:
        """Queues a record; returns the one that is superseded by that, which may be `arrived`."""
        user = arrived.trigger.user_id
        waiting = self._triggers.get(user) or self._refreshes.get(user)
        if waiting is not None and waiting.rank >= arrived.rank:
            return arrived
        if waiting is not None and waiting.refresh and not arrived.refresh:
            del self._refreshes[user]
        self._lane(arrived)[user] = arrived  # in the place of an older one of the same lane
        return waiting

    def take(self) -> Queued | None:
        """Returns the next record, or None; until `done` no other one of its user and lane.

        A trigger does not wait for a refresh of its user: Redis keeps the newer of the two.
        """
        lanes = [(False, self._triggers)]
        if len(self._in_hand[True]) < self._most_refreshes:
            lanes.append((True, self._refreshes))
        for refresh, lane in lanes:
            user = next((user for user in lane if user not in self._in_hand[refresh]), None)
            if user is not None:
                self._in_hand[refresh].add(user)
                return lane.pop(user)
        return None

    def done(self, taken: Queued) -> None:
        """Lets the next record of this user be taken."""
        self._in_hand[taken.refresh].remove(taken.trigger.user_id)

    def drop(self, places: Collection[tuple[str, int]]) -> None:
        """Forgets what waits of these (topic, partition): another member, or a repeat, has it."""
        for lane in (self._triggers, self._refreshes):
            for user in [
                user
                for user, one in lane.items()
                if (one.source.topic, one.source.partition) in places
            ]:
                del lane[user]

    def _lane(self, one: Queued) -> dict[str, Queued]:
        return self._refreshes if one.refresh else self._triggers
