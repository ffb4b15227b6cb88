"""Records to JSON bytes and back; `schema` in every record names its schema and version.

Within a version, fields are only added, with defaults; a change that old bytes cannot satisfy gets
a new tag (`user_action/2`) beside the old one. Old bytes are kept as fixtures in
`tests/schemas/fixtures/`, the shapes in `schemas/json/` (`make schemas` refuses a break).
"""

import re
from typing import Any, Generic, TypeVar

import msgspec

from schemas import topics
from schemas.actions import ActionRecord, HighValueRecord
from schemas.catalog import ItemUpsert, SidAssignment
from schemas.dead_letters import DeadLetterRecord, Reason
from schemas.errors import InvalidRecord
from schemas.impressions import Impression
from schemas.instructions import InstructionTrigger, ReasoningInstruction
from schemas.policies import PolicyPublished
from schemas.rewards import RewardEvent
from schemas.users import UserProfile

RECORDS: dict[str, Any] = {
    topics.ACTIONS: ActionRecord,
    topics.HIGH_VALUE_ACTIONS: HighValueRecord,
    topics.INSTRUCTION_TRIGGERS: InstructionTrigger,
    topics.INSTRUCTION_REFRESHES: InstructionTrigger,
    topics.INSTRUCTIONS: ReasoningInstruction,
    topics.IMPRESSIONS: Impression,
    topics.REWARDS: RewardEvent,
    topics.CATALOG: ItemUpsert,
    topics.SEMANTIC_IDS: SidAssignment,
    topics.USERS: UserProfile,
    topics.POLICIES: PolicyPublished,
    topics.DEAD_LETTERS: DeadLetterRecord,
}

# An impression is 4-5 kB; a quarter of Kafka's default limit is surely a mistake
MAX_RECORD_BYTES = 262_144

# msgspec 0.22's own words; `tests/schemas/test_codec.py` holds each of them against a real message.
_PATH = re.compile(r" - at `(?P<path>[^`]*)`\Z")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")
_VALUE = re.compile(r"Invalid (?:enum )?value '?(?P<found>.*?)'?\Z", re.DOTALL)
_WRONG = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<found>[^`]*)`")
_BOUND = re.compile(r"Expected `(?P<type>[^`]*)`(?P<bound>.*)")
_BYTE = re.compile(r"\(byte (?P<byte>\d+)\)")
_NUMBER = re.compile(rb"-?(?:NaN|Infinity)")
_NAME = re.compile(rb'"(?P<name>[^"]*)"\s*:\s*\Z')
MAX_FOUND = 80  # characters of what was found that an answer or a dead letter repeats

T = TypeVar("T")  # 3.11 has no `class Decoder[T]`

_encoder = msgspec.json.Encoder()


def encode(record: msgspec.Struct) -> bytes:
    """Returns the JSON bytes of a record, with its `schema` tag."""
    return _encoder.encode(record)


class Decoder(Generic[T]):
    """Decodes one kind of record (or a union of tagged records).

    Build once, use for every message.
    """

    def __init__(self, record: Any) -> None:
        self._decoder = msgspec.json.Decoder(record)

    def decode(self, value: bytes) -> T:
        """Returns the record in `value`.

        Raises `InvalidRecord` naming the field, what was found and wanted.
        """
        if len(value) > MAX_RECORD_BYTES:
            raise InvalidRecord(
                reason=Reason.OVERSIZED,
                field="$",
                found=f"{len(value)} bytes",
                wanted=f"at most {MAX_RECORD_BYTES} bytes",
            )
        try:
            decoded: T = self._decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise explain(error, value) from error
        return decoded


def explain(error: Exception, value: bytes = b"") -> InvalidRecord:
    """Returns msgspec's complaint about `value`: a typed reason, the field, found and wanted."""
    if not isinstance(error, msgspec.ValidationError):
        return _explain_syntax(str(error), value)
    message = str(error)
    path = match["path"] if (match := _PATH.search(message)) else "$"
    message = _PATH.sub("", message)
    field = path.removeprefix("$.")
    if match := _MISSING.search(message):
        missing = match["field"] if path == "$" else f"{field}.{match['field']}"
        reason = Reason.UNKNOWN_SCHEMA if missing == "schema" else Reason.MISSING_FIELD
        return _invalid(reason, missing, "nothing", "a value")
    if field == "schema":
        found = match["found"] if (match := _VALUE.search(message)) else "no string"
        return _invalid(Reason.UNKNOWN_SCHEMA, field, found, "a schema of this topic")
    if match := _VALUE.search(message):
        reason = Reason.UNKNOWN_ACTION if field == "action" else Reason.OUT_OF_RANGE
        return _invalid(reason, field, match["found"], "a known value")
    if match := _WRONG.search(message):
        return _invalid(Reason.WRONG_TYPE, field, match["found"], match["wanted"])
    wanted = message
    if match := _BOUND.search(message):
        wanted = match["type"] + match["bound"]
    return _invalid(Reason.OUT_OF_RANGE, field, "a value outside", wanted)


def _explain_syntax(message: str, value: bytes) -> InvalidRecord:
    """Tells a NaN (a number that JSON does not have) from bytes that are no JSON at all."""
    if match := _BYTE.search(message):
        at = int(match["byte"])
        at -= value[at - 1 : at] == b"-"  # msgspec points behind the sign
        if number := _NUMBER.match(value, at):
            name = _NAME.search(value[max(0, at - 256) : at])
            field = name["name"].decode(errors="replace") if name else "$"
            return _invalid(Reason.OUT_OF_RANGE, field, number[0].decode(), "a finite number")
    found = message.removeprefix("JSON is malformed: ")
    return _invalid(Reason.MALFORMED_JSON, "$", found, "one JSON object")


def _invalid(reason: Reason, field: str, found: str, wanted: str) -> InvalidRecord:
    shown = found if len(found) <= MAX_FOUND else found[:MAX_FOUND] + "..."
    return InvalidRecord(reason=reason, field=field, found=shown, wanted=wanted)
