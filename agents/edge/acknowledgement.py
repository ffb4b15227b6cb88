"""A statement about one user or item is taken when Kafka has acknowledged it, and not before."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from msgspec import Struct

from schemas.errors import OxygenRecError
from streams.producer import Delivered, UndeliveredRecord

# Produces one record (None: a tombstone) to a topic under a key.
Send = Callable[[str, Struct | None, str], Future[Delivered]]


class NotAcknowledged(OxygenRecError):
    """Kafka did not acknowledge a request in time; it may be there all the same."""

    def __init__(self, *, topic: str, key: str, waited_ms: int) -> None:
        self.topic = topic
        self.key = key
        super().__init__(
            f"{topic}: found no acknowledgement for {key} within {waited_ms} ms;"
            " send the request again, a repeat changes nothing"
        )


class Acknowledged:
    """Sends one record and waits for its acknowledgement."""

    def __init__(self, send: Send, *, within_ms: int) -> None:
        self._send = send
        self._within_ms = within_ms

    async def __call__(self, topic: str, record: Struct | None, key: str) -> None:
        """Returns when the record is in the log. Raises `NotAcknowledged`."""
        sent = asyncio.wrap_future(self._send(topic, record, key))
        try:
            await asyncio.wait_for(sent, self._within_ms / 1_000)
        except (TimeoutError, UndeliveredRecord) as error:
            raise NotAcknowledged(topic=topic, key=key, waited_ms=self._within_ms) from error
