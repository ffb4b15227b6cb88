"""Replays dead letters: mends the record, judges it as its reader will, sends it where it was.

Order, so that a letter is neither lost nor forgotten: the record is sent and acknowledged, then
the mark `LetterReplayed` is. A crash between the two leaves a letter without a mark, which the
next replay sends again: every effect of a record is idempotent (docs/producers.md).
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas import topics
from schemas.actions import UserAction, UserErased
from schemas.codec import MAX_FOUND, RECORDS, Decoder
from schemas.dead_letters import (
    DeadLetter,
    LetterReplayed,
    Reason,
    Rejection,
    reject_action,
)
from schemas.errors import InvalidRecord
from schemas.topics import TOPICS
from streams.cloud_events import cloud_event_headers
from streams.dead_letter_log import KeptLetter
from streams.dead_letters import rejection_of
from streams.producer import Delivered, RecordProducer, UndeliveredRecord

REPLAY_HEADER = "oxygenrec_replay_of"  # on the record: the place of its letter
SOURCE = "/oxygenrec-dead-letters"
# What a topic's key is made of (schemas/topics.py says which key a topic has)
KEY_FIELDS = {"user": "user_id", "item": "item_id", "request": "request_id", "policy line": "line"}
_KEYS = {topic.name: KEY_FIELDS.get(topic.key) for topic in TOPICS}

_decoders: dict[str, Decoder[msgspec.Struct]] = {
    topic: Decoder(record) for topic, record in RECORDS.items() if topic != topics.DEAD_LETTERS
}

Changes = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A record that its reader will take: where it goes, byte for byte."""

    topic: str
    key: bytes | None
    value: bytes
    record: msgspec.Struct


def mend(
    letter: DeadLetter, changes: Changes, *, now_ms: int, scenarios: frozenset[str]
) -> Mended | Rejection:
    """Returns what to send in place of a letter, or why it would be refused again.

    Without changes the bytes are the original ones. `a.b` in changes names a field of a field.
    """
    decoder = _decoders.get(letter.topic)
    if decoder is None:
        return Rejection(
            reason=Reason.UNKNOWN_SCHEMA,
            field="topic",
            found=letter.topic,
            wanted="one of " + ", ".join(sorted(_decoders)),
        )
    try:
        value = changed(letter.value, changes) if changes else letter.value
        record = decoder.decode(value)
    except InvalidRecord as error:
        return rejection_of(error)
    if letter.topic == topics.ACTIONS and isinstance(record, UserAction):
        rejection = reject_action(record, now_ms=now_ms, scenarios=scenarios)
        if rejection is not None:
            return rejection
    return Mended(topic=letter.topic, key=_key(letter, record, changes), value=value, record=record)


def changed(value: bytes, changes: Changes) -> bytes:
    """Returns a JSON record with fields set; numbers that JSON lacks (NaN) may be replaced.

    Raises `InvalidRecord` where the value is no JSON object, or still is no JSON.
    """
    try:
        record = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _not_json(str(error)) from error
    for path, new in changes.items():
        *parents, name = path.split(".")
        inner = record
        for parent in parents:
            inner = inner.setdefault(parent, {}) if isinstance(inner, dict) else inner
        if not isinstance(inner, dict):
            raise InvalidRecord(
                reason=Reason.WRONG_TYPE,
                field=".".join(parents) or "$",
                found=type(inner).__name__,
                wanted=f"an object, to set {path} in it",
            )
        inner[name] = new
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:  # also a lone surrogate
        raise _not_json(str(error)) from error


class Replayer:
    """Sends mended records to their topics, and marks their letters."""

    def __init__(self, producer: RecordProducer) -> None:
        self._producer = producer

    def send(
        self, batch: Sequence[tuple[KeptLetter, Mended]], changes: Changes, now_ms: int
    ) -> list[Delivered]:
        """Returns where the records stand, when they and their marks are acknowledged.

        Raises `UndeliveredRecord` for the first that is not; what was sent is marked all the same.
        """
        sent = [(kept, self._send(kept, mended)) for kept, mended in batch]
        places: list[Delivered] = []
        marks: list[Future[Delivered]] = []
        failures: list[UndeliveredRecord] = []
        for kept, future in sent:
            try:
                place = future.result()
            except UndeliveredRecord as error:
                failures.append(error)
            else:
                places.append(place)
                marks.append(self._mark(kept, place, changes, now_ms))
        for mark in marks:
            mark.result()
        if failures:
            raise failures[0]
        return places

    def _send(self, kept: KeptLetter, mended: Mended) -> Future[Delivered]:
        headers: list[tuple[str, bytes | None]] = []
        if isinstance(mended.record, UserAction | UserErased):
            headers += cloud_event_headers(mended.record, SOURCE)
        headers.append((REPLAY_HEADER, f"{topics.DEAD_LETTERS}[0]@{kept.offset}".encode()))
        return self._producer.send(mended.topic, mended.value, mended.key, headers=headers)

    def _mark(
        self, kept: KeptLetter, place: Delivered, changes: Changes, now_ms: int
    ) -> Future[Delivered]:
        mark = LetterReplayed(
            letter_offset=kept.offset,
            topic=place.topic,
            partition=place.partition,
            offset=place.offset,
            changes={path: json.dumps(value) for path, value in changes.items()},
            replayed_ms=now_ms,
        )
        return self._producer.send(topics.DEAD_LETTERS, mark, None)


def _key(letter: DeadLetter, record: msgspec.Struct, changes: Changes) -> bytes | None:
    """The original key; the record's own where there was none, or where it was what was wrong."""
    field = _KEYS.get(letter.topic)
    own = getattr(record, field, None) if field else None
    if own is not None and (letter.key is None or field in changes):
        return str(own).encode()
    return letter.key


def _not_json(cause: str) -> InvalidRecord:
    return InvalidRecord(
        reason=Reason.MALFORMED_JSON,
        field="$",
        found=cause[:MAX_FOUND],
        wanted="one JSON object, to set a field in it",
    )
