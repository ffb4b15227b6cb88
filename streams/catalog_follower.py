"""Follows `semantic-ids` for one replica: a thread with a connection of its own, plain assignment.

Every replica reads the whole log (one partition, one writer): its offset is the version of the live
index. A connection that is lost is made again at the same offset.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

from aiokafka.errors import KafkaError

from schemas import topics
from schemas.catalog import SidAssignment, item_key_of
from schemas.codec import Decoder
from schemas.errors import InvalidRecord, OxygenRecError
from streams.connections import KafkaConfig
from streams.log_reader import LogReader, LogRecord

RECONNECT_S = 1.0

# What a replica does with changes, keys of removed items, and the offset behind them
Apply = Callable[[Sequence[SidAssignment], Sequence[int], int], None]

logger = logging.getLogger(__name__)


class CatalogFollower:
    """Calls `apply` on its own thread; what that raises is logged, and the offset goes on."""

    def __init__(
        self,
        kafka: KafkaConfig,
        *,
        start: int,
        apply: Apply,
        report: Callable[[float], None] | None = None,
    ) -> None:
        """`start`: the offset up to which the replica's snapshot reaches. `report` is called with
        `lag_s` after every fetch.
        """
        self._kafka = kafka
        self._position = start
        self._apply = apply
        self._report = report or (lambda _: None)
        self._decoder: Decoder[SidAssignment] = Decoder(SidAssignment)
        self._caught_up = threading.Event()
        self._stopping = threading.Event()
        self._at_end_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="catalog-follower", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Returns whether everything that was in the log has been applied."""
        return self._caught_up.wait(timeout_s)

    @property
    def lag_s(self) -> float:
        """Seconds since all of the log was applied: a fraction while the follower is well."""
        return time.monotonic() - self._at_end_s

    def stop(self) -> None:
        """Ends the thread after the fetch it is at."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                asyncio.run(self._follow())
            except (KafkaError, OxygenRecError) as error:
                logger.warning("semantic-ids cannot be read", extra={"cause": str(error)})
                self._stopping.wait(RECONNECT_S)

    async def _follow(self) -> None:
        async with LogReader(self._kafka, topics.SEMANTIC_IDS) as log:
            async for records, position, at_end in log.tail(self._position):
                if position > self._position:
                    self._take(records, position)
                    self._position = position
                if at_end:
                    self._at_end_s = time.monotonic()
                    self._caught_up.set()
                self._report(self.lag_s)
                if self._stopping.is_set():
                    return

    def _take(self, records: Sequence[LogRecord], position: int) -> None:
        newest: dict[bytes | None, SidAssignment | None] = {}
        for record in records:
            try:
                newest[record.key] = self._decoder.decode(record.value) if record.value else None
            except InvalidRecord:
                logger.exception("assignment cannot be read", extra={"offset": record.offset})
        changes = [change for change in newest.values() if change is not None]
        gone = [
            item_key_of(key.decode(errors="replace"))
            for key, change in newest.items()
            if change is None and key is not None
        ]
        try:
            self._apply(changes, gone, position)
        except Exception:  # a defect of one batch must not end the following of all later ones
            logger.exception("catalogue changes not applied", extra={"index_offset": position})
