"""The published JSON Schemas are what the code reads, and a change that old bytes do not fit fails.

Together with the frozen bytes of `test_old_bytes.py` this is the compatibility gate: the rules see
a break in the schema, the fixtures (which must fill every field) see one in the reading.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.compatibility import breaks
from schemas.json_schemas import (
    SchemaBroken,
    check,
    file_of,
    generate,
    publish,
    read_published,
)
from tests.schemas.test_old_bytes import BYTES

PUBLISHED = read_published()


def test_the_code_reads_everything_that_was_published() -> None:
    check(PUBLISHED, generate())  # its error says what broke and what to do


def test_the_published_schemas_are_what_the_code_generates() -> None:
    stale = [tag for tag, text in generate().items() if PUBLISHED.get(tag) != text]
    assert not stale, f"schemas/json/ does not hold {', '.join(stale)} as it is: `make schemas`"


def schema(**changes: Any) -> dict[str, Any]:
    """A small record as msgspec describes it, with changes to its fields (None: field gone)."""
    fields: dict[str, Any] = {
        "id": {"type": "string", "maxLength": 9},
        "kind": {"$ref": "#/$defs/Kind"},
        "price": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "counts": {"type": "array", "items": {"type": "integer"}, "default": []},
        "notes": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
        "size": {"type": "integer", "default": 1},
    } | changes
    properties = {name: field for name, field in fields.items() if field is not None}
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name, field in properties.items() if "default" not in field],
        "$defs": {"Kind": {"enum": ["a", "b"]}},
    }


def with_kinds(*kinds: str) -> dict[str, Any]:
    return {**schema(), "$defs": {"Kind": {"enum": list(kinds)}}}


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (schema(price=None), "field price: found no such field"),
        (schema(city={"type": "string"}), "field city: found a new field without a default"),
        (schema(size={"type": "integer"}), "field size: found a required field"),
        (schema(id={"type": "integer"}), "field id: found integer, wanted string"),
        (schema(price={"type": "number", "default": 1.0}), "field price: found number, wanted nul"),
        (schema(size={"type": "integer", "default": 2}), "field size: found default 2, wanted 1"),
        (schema(id={"type": "string", "maxLength": 8}), "field id: found maxLength 8, wanted max"),
        (schema(id={"type": "string", "maxLength": 9, "minLength": 1}), "wanted minLength absent"),
        (schema(id={"type": "string", "maxLength": 9, "pattern": "x"}), "found pattern x"),
        (with_kinds("a", "c"), "field kind: found no value b"),
        (schema(counts={"type": "array", "items": {"type": "string"}, "default": []}), "counts[]"),
        (schema(notes={"type": "object", "additionalProperties": {"type": "null"}}), "notes{}"),
        (schema(kind={"type": "integer"}), "field kind: found integer, wanted enum"),
    ],
)
def test_a_breaking_change_is_named_with_its_field(new: dict[str, Any], line: str) -> None:
    assert [found for found in breaks(schema(), new) if line in found]


@pytest.mark.parametrize(
    "new",
    [
        schema(),
        schema(city={"type": "string", "default": ""}),
        schema(id={"type": "string", "maxLength": 10}),
        schema(size={"type": "number", "default": 1}),
        schema(id={"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}),
        schema(kind={"type": "string"}),
        with_kinds("a", "b", "c"),
    ],
)
def test_what_only_widens_breaks_nothing(new: dict[str, Any]) -> None:
    assert breaks(schema(), new) == []


def test_a_break_is_refused_with_its_field_and_what_to_do_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    publish(tmp_path)
    path = tmp_path / file_of("user_action/1")
    published = json.loads(path.read_text())
    published["properties"]["mood"] = {"type": "string", "default": ""}
    path.write_text(json.dumps(published))
    before = read_published(tmp_path)
    with pytest.raises(SchemaBroken, match="user_action/1: field mood: found no such") as refused:
        publish(tmp_path)
    assert "a tag of its own" in str(refused.value)
    assert read_published(tmp_path) == before


def test_a_record_that_is_gone_is_a_break() -> None:
    with pytest.raises(SchemaBroken, match="user_mood/1: field schema: found no record"):
        check({"user_mood/1": b"{}"}, generate())


def test_a_second_publication_writes_nothing(tmp_path: Path) -> None:
    assert sorted(publish(tmp_path)) == sorted(generate())
    assert publish(tmp_path) == []


def paths_of(schema: dict[str, Any], defs: dict[str, Any], path: str = "") -> set[str]:
    """Every field that a schema names, as `a.b`, through references and lists."""
    if "$ref" in schema:
        return paths_of(defs[schema["$ref"].rsplit("/", 1)[1]], defs, path)
    inner = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]
    found = {one for part in inner for one in paths_of(part, defs, path)}
    for name, field in schema.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        found |= {below} | paths_of(field, defs, below)
    return found


def filled(value: Any, path: str = "") -> set[str]:
    """Every field of a JSON value that has one, as `a.b`; lists are looked through."""
    if isinstance(value, list):
        return {one for element in value for one in filled(element, path)}
    if not isinstance(value, dict):
        return set()
    names = {name: f"{path}.{name}" if path else name for name in value}
    return set(names.values()) | {o for n, below in names.items() for o in filled(value[n], below)}


@pytest.mark.parametrize("tag", generate())
def test_the_old_bytes_of_a_record_fill_every_field_of_its_schema(tag: str) -> None:
    document = json.loads(generate()[tag])
    wanted = paths_of(document, document.get("$defs", {}))
    values = [json.loads(value) for value in BYTES.values()]
    known = {p for value in values if value.get("schema") == tag for p in filled(value)}
    lacking = ", ".join(sorted(wanted - known))
    assert not lacking, f"add bytes with {lacking} beside tests/schemas/fixtures/{file_of(tag)}"
