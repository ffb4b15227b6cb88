"""Who may publish, and what is published: the `policies` topic with its fencing epoch.

A trainer claims an epoch when it starts, by announcing the served version again under the next
number. Whoever then sees a larger epoch than its own has been replaced and must stop.
"""

import asyncio

from msgspec.structs import replace

from schemas import topics
from schemas.codec import Decoder
from schemas.errors import OxygenRecError
from schemas.policies import DEFAULT_LINE, PolicyPublished
from streams.connections import KafkaConfig
from streams.log_reader import LogReader
from streams.producer import RecordProducer

_decoder: Decoder[PolicyPublished] = Decoder(PolicyPublished)


class FencedWriter(OxygenRecError):
    """Another trainer of this line took over."""

    def __init__(self, *, line: str, epoch: int, found: int) -> None:
        self.line = line
        self.epoch = epoch
        self.found = found
        super().__init__(
            f"policies: line {line} has epoch {found}, this trainer has {epoch}: another one took"
            " over; stop this one"
        )


class PolicyAnnouncements:
    """Reads and writes the announcements of one line. `epoch` is 0 before a claim."""

    def __init__(
        self, kafka: KafkaConfig, producer: RecordProducer, line: str = DEFAULT_LINE
    ) -> None:
        """Prepares; nothing is read yet."""
        self.line = line
        self.epoch = 0
        self._kafka = kafka
        self._producer = producer

    async def newest(self) -> PolicyPublished | None:
        """Returns what must be served now: the last announcement of the largest epoch, or None."""
        read = await self._read()
        return max(read, key=lambda entry: (entry[1].epoch, entry[0]))[1] if read else None

    async def claim(self) -> PolicyPublished:
        """Takes the line over: announces the served version again under a new epoch.

        Of two that claim the same number, the first in the log has it; the other takes the next.
        Raises NothingPublished.
        """
        while True:
            served = await self.newest()
            if served is None:
                raise NothingPublished(line=self.line)
            claimed = replace(served, epoch=served.epoch + 1)
            offset = await self._send(claimed)
            earlier = [a.epoch for at, a in await self._read() if at < offset]
            if max(earlier, default=0) < claimed.epoch:
                self.epoch = claimed.epoch
                return claimed

    async def announce(self, published: PolicyPublished) -> PolicyPublished:
        """Announces under our epoch, acknowledged by Kafka. Raises FencedWriter."""
        await self.check()
        announced = replace(published, epoch=self.epoch)
        await self._send(announced)
        return announced

    async def check(self) -> None:
        """Raises FencedWriter when another trainer has claimed a larger epoch."""
        found = max((announced.epoch for _, announced in await self._read()), default=0)
        if found > self.epoch:
            raise FencedWriter(line=self.line, epoch=self.epoch, found=found)

    async def _read(self) -> list[tuple[int, PolicyPublished]]:
        async with LogReader(self._kafka, topics.POLICIES) as log:
            records = await log.read()
        decoded = [(r.offset, _decoder.decode(r.value)) for r in records if r.value is not None]
        return [(at, announced) for at, announced in decoded if announced.line == self.line]

    async def _send(self, published: PolicyPublished) -> int:
        sent = self._producer.send(topics.POLICIES, published, self.line)
        return (await asyncio.wrap_future(sent)).offset


class NothingPublished(OxygenRecError):
    """No version of the line was ever announced."""

    def __init__(self, *, line: str) -> None:
        self.line = line
        super().__init__(
            f"policies: found no version of line {line}: publish the offline model first"
            " (`publish_first`, which `oxygenrec up` calls)"
        )
