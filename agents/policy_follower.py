"""Follows `policies`: which version the edge asks the generator for, from this moment on.

Plain assignment from the log's start: every edge reads every announcement, and a restarted one
knows the policy in force before it is ready. A smaller epoch than seen is a fenced writer's.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiokafka.errors import KafkaError

from schemas import topics
from schemas.codec import Decoder
from schemas.errors import InvalidRecord
from schemas.policies import DEFAULT_LINE, PolicyPublished
from streams import metrics
from streams.connections import KafkaConfig
from streams.log_reader import LogReader, LogRecord

RECONNECT_S = 1.0

logger = logging.getLogger(__name__)


class PolicyFollower:
    """Keeps the newest announcement of one line in `current`.

    `prepare` is awaited before a new one is used: what it needs (an encoder) is then at hand.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        prepare: Callable[[PolicyPublished], Awaitable[None]],
        line: str = DEFAULT_LINE,
    ) -> None:
        self.current: PolicyPublished | None = None
        self._kafka = kafka
        self._prepare = prepare
        self._line = line
        self._decoder: Decoder[PolicyPublished] = Decoder(PolicyPublished)

    async def run(self) -> None:
        """Follows until cancelled; a lost connection is made again and the log read anew."""
        while True:
            try:
                async with LogReader(self._kafka, topics.POLICIES) as reader:
                    async for record in reader.follow():
                        await self.observe(record)
            except KafkaError as error:
                logger.warning("policies cannot be read", extra={"cause": str(error)})
                await asyncio.sleep(RECONNECT_S)

    async def observe(self, record: LogRecord) -> None:
        """Takes over one announcement, if it is of our line and of no fenced writer."""
        if record.value is None:
            return
        try:
            announced = self._decoder.decode(record.value)
        except InvalidRecord:
            place = f"{topics.POLICIES}[0]@{record.offset}"
            logger.exception("unreadable announcement left out", extra={"place": place})
            return
        current = self.current
        if announced.line != self._line or announced == current:
            return
        if current is not None and announced.epoch < current.epoch:
            logger.warning("announcement of a fenced writer", extra={"epoch": announced.epoch})
            return
        await self._prepare(announced)
        self.current = announced
        metrics.SERVED_POLICY_VERSION.set(announced.stable_version)
        logger.info("policy announced", extra={"version": announced.stable_version})
