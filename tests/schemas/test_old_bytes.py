"""What was ever written to a topic, a table or Redis must be readable as long as it may lie there.

The fixtures are frozen: a change that breaks one needs a new schema tag beside the old one.
"""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from schemas.behaviour import Behaviour
from schemas.codec import RECORDS, Decoder, encode
from streams.window_rows import WatermarkRow, WindowRow

FIXTURES = Path(__file__).parent / "fixtures"
BYTES = {path.stem: path.read_bytes() for path in sorted(FIXTURES.glob("*.json"))}


def kinds() -> dict[str, Any]:
    """Every kind of record that rests somewhere, by its schema tag."""
    found: dict[str, Any] = {}
    for record in [*RECORDS.values(), WindowRow, WatermarkRow]:
        for kind in get_args(record) or (record,):
            found[kind.__struct_config__.tag] = kind
    return found


def test_every_kind_of_record_has_old_bytes() -> None:
    tags = {json.loads(value).get("schema") for value in BYTES.values()}
    assert set(kinds()) <= tags


@pytest.mark.parametrize("name", [name for name in BYTES if name != "behaviour"])
def test_old_bytes_decode_and_lose_nothing(name: str) -> None:
    written = json.loads(BYTES[name])
    record = Decoder[msgspec.Struct](kinds()[written["schema"]]).decode(BYTES[name])
    again = json.loads(encode(record))
    assert written.items() <= again.items()


@pytest.mark.parametrize("topic", RECORDS)
def test_each_topic_decodes_the_old_bytes_of_its_records(topic: str) -> None:
    decoder: Decoder[msgspec.Struct] = Decoder(RECORDS[topic])
    tags = {kind.__struct_config__.tag for kind in get_args(RECORDS[topic]) or (RECORDS[topic],)}
    read = {
        json.loads(value)["schema"]
        for value in BYTES.values()
        if json.loads(value).get("schema") in tags and decoder.decode(value) is not None
    }
    assert read == tags


def test_behaviour_in_redis_keeps_its_bytes_so_that_a_repeat_adds_no_member() -> None:
    value = BYTES["behaviour"].strip()
    assert encode(msgspec.json.decode(value, type=Behaviour)) == value


def test_a_field_of_a_later_version_is_ignored() -> None:
    later = json.loads(BYTES["user_action-1"]) | {"mood": "sunny"}
    decoder: Decoder[msgspec.Struct] = Decoder(RECORDS["actions"])
    assert decoder.decode(json.dumps(later).encode()) == decoder.decode(BYTES["user_action-1"])
