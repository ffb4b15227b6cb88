"""How the item index grew while a version served, so that a logged request can be scored under the
structure that answered it (ALGORITHMS 5: log-probs depend on weights, generation and index offset).

A replica goes on reading `semantic-ids` behind its version's snapshot. Stock never changes a
log-prob, a new SID does: it is one more child in a softmax.
"""

from collections.abc import Iterable

from schemas.catalog import SidAssignment


class IndexGrowth:
    """First assignments in the order of the log, from `start` up to `position`."""

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.position = start
        self._first: dict[int, tuple[int, SidAssignment]] = {}

    def restart(self, start: int) -> None:
        """Forgets everything, and begins at `start`."""
        self.start = self.position = start
        self._first.clear()

    def extend(self, assignments: Iterable[tuple[int, SidAssignment]], position: int) -> None:
        """Takes in (offset, assignment) of the log up to, not including, `position`."""
        for offset, assignment in assignments:
            self._first.setdefault(assignment.item_key, (offset, assignment))
        self.position = position

    def reaches(self, start: int, stop: int) -> bool:
        """Whether all of [start, stop) was taken in."""
        return stop <= start or (self.start <= start and stop <= self.position)

    def between(self, start: int, stop: int, generation: int) -> list[SidAssignment]:
        """Returns the items of a generation that first appear in [start, stop)."""
        return [
            assignment
            for offset, assignment in self._first.values()
            if start <= offset < stop and assignment.generation == generation
        ]
