"""Requests to records: each element on its own, faults with field, found and wanted."""

import json
import re
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from schemas.actions import Identifier
from schemas.codec import MAX_FOUND, MAX_RECORD_BYTES, explain
from schemas.dead_letters import Reason
from schemas.errors import InvalidRecord

T = TypeVar("T")

# Not JSON, yet what many a JSON library writes. The class's name is what the fault says was found.
NOT_NUMBERS = {name: type(name, (), {})() for name in ("NaN", "Infinity", "-Infinity")}
FLAGS = {"true": True, "false": False}

_array = msgspec.json.Decoder(list[msgspec.Raw])
_single = msgspec.json.Decoder(msgspec.Raw)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>[^`]*)`")
_lenient = json.JSONDecoder(parse_constant=NOT_NUMBERS.__getitem__)


class BodyTooLarge(InvalidRecord):
    """A body with more elements than a request may have: answered 413."""


class ElementDecoder(Generic[T]):
    """Decodes one element: raw bytes, or an object that only the lenient reader understood."""

    def __init__(self, record: type[T]) -> None:
        self._record = record
        self._decoder = msgspec.json.Decoder(record)

    def decode(self, element: Any) -> T:
        """Returns the record. Raises `InvalidRecord`."""
        try:
            if not isinstance(element, msgspec.Raw | bytes):
                return msgspec.convert(element, self._record)
            value = bytes(element)
            if len(value) > MAX_RECORD_BYTES:
                raise _oversized(len(value))
            return self._decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise explain(error) from error


def elements(body: bytes, limit: int) -> Sequence[Any]:
    """Returns the elements of an array, or the one object, not decoded yet.

    A NaN spoils a whole JSON document: only then a reader that knows it goes over the body, so that
    the good elements beside it pass. Raises `InvalidRecord` where nothing can be decoded, and
    `BodyTooLarge` beyond `limit` elements.
    """
    array = body.lstrip().startswith(b"[")
    try:
        found: Sequence[Any] = _array.decode(body) if array else [_single.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = _with_constants(body, error)
    if not found:
        raise _out_of_range("an empty array", limit)
    if len(found) > limit:
        raise BodyTooLarge(
            reason=Reason.OVERSIZED,
            field="$",
            found=f"{len(found)} elements",
            wanted=f"1 to {limit} elements",
        )
    return found


def one(body: bytes, decoder: ElementDecoder[T]) -> T:
    """Returns the one record of a body. Raises `InvalidRecord`; a NaN is named by its field."""
    try:
        return decoder.decode(body)
    except InvalidRecord as error:
        if error.reason != Reason.MALFORMED_JSON:
            raise
        fault = error
    return decoder.decode(_lenient_value(body, fault))


def known_fields_only(body: bytes, decoder: ElementDecoder[T], fields: str) -> T:
    """Returns the one record of a body whose type forbids other fields; `fields` names those there
    are. Raises `InvalidRecord`, naming the unknown one.
    """
    try:
        return one(body, decoder)
    except InvalidRecord as error:
        match = _UNKNOWN_FIELD.search(error.wanted)
        if match is None:
            raise
        raise InvalidRecord(
            reason=Reason.OUT_OF_RANGE,
            field=match["name"],
            found="an unknown field",
            wanted=fields,
        ) from error


def checked_id(field: str, value: str) -> str:
    """Returns an id out of a path. Raises `InvalidRecord`."""
    try:
        return msgspec.convert(value, Identifier)
    except msgspec.ValidationError as error:
        raise InvalidRecord(
            reason=Reason.OUT_OF_RANGE,
            field=field,
            found=f"{len(value)} characters",
            wanted="1 to 128 characters",
        ) from error


def dry_run_in(query: Sequence[tuple[str, str]]) -> bool:
    """Returns whether a query string asks for a dry run.

    Raises `InvalidRecord` for any other parameter: a misspelt one would send what was meant to be
    judged only.
    """
    for name, value in query:
        if name != "dry_run":
            raise _bad_parameter(name, "a parameter", "dry_run or nothing")
        if value not in FLAGS or len(query) > 1:
            found = ", ".join(given for _, given in query)[:MAX_FOUND]
            raise _bad_parameter(name, found, "true or false, once")
    return bool(query) and FLAGS[query[0][1]]


def event_id_in(element: Any) -> str | None:
    """Returns the event id of an element that is no action, so that its producer finds it again."""
    try:
        value = msgspec.json.decode(element) if isinstance(element, msgspec.Raw) else element
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found = value.get("event_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _with_constants(body: bytes, error: Exception) -> Sequence[Any]:
    value = _lenient_value(body, explain(error))
    return value if isinstance(value, list) else [value]


def _lenient_value(body: bytes, fault: InvalidRecord) -> Any:
    try:
        return _lenient.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise fault from error


def _oversized(size: int) -> InvalidRecord:
    return InvalidRecord(
        reason=Reason.OVERSIZED,
        field="$",
        found=f"{size} bytes",
        wanted=f"at most {MAX_RECORD_BYTES} bytes",
    )


def _bad_parameter(name: str, found: str, wanted: str) -> InvalidRecord:
    return InvalidRecord(
        reason=Reason.OUT_OF_RANGE, field=f"?{name[:MAX_FOUND]}", found=found, wanted=wanted
    )


def _out_of_range(found: str, limit: int) -> InvalidRecord:
    return InvalidRecord(
        reason=Reason.OUT_OF_RANGE, field="$", found=found, wanted=f"1 to {limit} elements"
    )
