"""Reads `dead-letters`: the letters that a filter wants, and which of them were replayed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from schemas import topics
from schemas.codec import RECORDS, Decoder
from schemas.dead_letters import DeadLetter, DeadLetterRecord, LetterReplayed, Reason
from schemas.errors import InvalidRecord
from streams.connections import KafkaConfig
from streams.log_reader import LogReader, LogRecord

# How a mark begins: a log of a million letters is not decoded for the few marks in it
_MARK = f'{{"schema":"{LetterReplayed.__struct_config__.tag}"'.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which letters are wanted; what is empty or None lets all pass. Times are the broker's."""

    offsets: frozenset[int] = frozenset()
    reasons: frozenset[Reason] = frozenset()
    topics: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None

    def wants(self, offset: int, append_ms: int, letter: DeadLetter) -> bool:
        """Returns whether a letter passes."""
        return (
            (not self.offsets or offset in self.offsets)
            and (not self.reasons or letter.rejection.reason in self.reasons)
            and (not self.topics or letter.topic in self.topics)
            and (self.since_ms is None or append_ms >= self.since_ms)
            and (self.until_ms is None or append_ms < self.until_ms)
        )


class KeptLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One letter as it lies in its log; `replayed` is the mark behind it, if there is one."""

    offset: int
    append_ms: int
    letter: DeadLetter
    replayed: LetterReplayed | None = None


class DeadLetterLog:
    """The one partition of `dead-letters`."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._kafka = kafka
        self._decoder: Decoder[DeadLetterRecord] = Decoder(RECORDS[topics.DEAD_LETTERS])

    async def letters(self, wanted: LetterFilter) -> AsyncIterator[KeptLetter]:
        """Yields the wanted letters, oldest first, up to the end that the log has now.

        Reads the log twice, for a mark lies behind its letter. A record that is no letter is left
        out. Raises `LogReadTimeout`.
        """
        async with LogReader(self._kafka, topics.DEAD_LETTERS) as log:
            start = None if wanted.since_ms is None else await log.offset_at(wanted.since_ms)
            _, end = await log.bounds()
            marks = await self._marks(log, start, end)
            async for record in log.scan(start, end):
                letter = self._decoded(record)
                if not isinstance(letter, DeadLetter):
                    continue
                if wanted.wants(record.offset, record.timestamp_ms, letter):
                    yield KeptLetter(
                        offset=record.offset,
                        append_ms=record.timestamp_ms,
                        letter=letter,
                        replayed=marks.get(record.offset),
                    )

    async def _marks(
        self, log: LogReader, start: int | None, end: int
    ) -> dict[int, LetterReplayed]:
        found: dict[int, LetterReplayed] = {}
        async for record in log.scan(start, end):
            if record.value is not None and record.value.startswith(_MARK):
                mark = self._decoded(record)
                if isinstance(mark, LetterReplayed):
                    found[mark.letter_offset] = mark
        return found

    def _decoded(self, record: LogRecord) -> DeadLetterRecord | None:
        try:
            return self._decoder.decode(record.value or b"")
        except InvalidRecord:
            return None
