"""How far a worker is behind the ends of its partitions, worked out whenever metrics are read.

A gauge that a worker sets by itself stands still exactly when the worker does.
"""

import math
from collections.abc import Callable
from functools import partial

from streams import metrics

Place = tuple[str, int]  # topic, partition


class Lags:
    """The gauge `oxygenrec_lag_records` of one worker: end of the log less what is finished."""

    def __init__(self, worker: str, end_of: Callable[[str, int], int | None]) -> None:
        """`end_of(topic, partition)`: the end as last heard of, None before the first fetch.

        It is called on the thread that answers a scrape, and may raise: the lag is then unknown.
        """
        self._worker = worker
        self._end_of = end_of
        self._finished: dict[Place, int] = {}

    def begin(self, topic: str, partition: int, offset: int) -> None:
        """Notes the first offset that is not finished, unless the partition is known."""
        if (topic, partition) not in self._finished:
            self.finish(topic, partition, offset)

    def finish(self, topic: str, partition: int, offset: int) -> None:
        """Notes that everything before `offset` is finished."""
        known = (topic, partition) in self._finished
        self._finished[topic, partition] = offset
        if not known:
            gauge = metrics.LAG.labels(worker=self._worker, topic=topic, partition=str(partition))
            gauge.set_function(partial(self._lag, topic, partition))

    def keep_only(self, assigned: set[Place]) -> None:
        """Forgets the partitions that another member has."""
        for topic, number in self._finished.keys() - assigned:
            del self._finished[topic, number]
            metrics.LAG.remove(self._worker, topic, str(number))

    def _lag(self, topic: str, partition: int) -> float:
        try:
            end = self._end_of(topic, partition)
        except Exception:  # noqa: BLE001  a client that closes: the scrape has other metrics to tell
            end = None
        finished = self._finished.get((topic, partition))
        return math.nan if end is None or finished is None else max(0, end - finished)
