"""Publishes the JSON Schema (draft 2020-12) of every wire record below `schemas/json/`.

`python -m schemas.json_schemas` (`make schemas`) writes the files, and refuses what old bytes could
not satisfy. One file a schema tag: `user_action/1` is `user_action-1.json`.
"""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from schemas.codec import RECORDS
from schemas.compatibility import breaks
from schemas.errors import OxygenRecError

FOLDER = Path(__file__).parent / "json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class SchemaBroken(OxygenRecError):
    """A record changed so that bytes already written could not be read, or would mean another."""

    def __init__(self, *, changes: Mapping[str, list[str]]) -> None:
        self.changes = dict(changes)
        found = "; ".join(f"{tag}: {', '.join(lines)}" for tag, lines in changes.items())
        super().__init__(
            f"records that old bytes do not fit: {found}. Old bytes rest in Kafka: take the change"
            " back, or give the new shape a tag of its own (`user_action/2`) beside the old one,"
            " read both, then `make schemas`"
        )


def file_of(tag: str) -> str:
    """Returns the name of the file that describes a schema tag."""
    return f"{tag.replace('/', '-')}.json"


def wire_records() -> dict[str, Any]:
    """Returns every kind of record that travels through a topic, by its schema tag."""
    found: dict[str, Any] = {}
    for record in RECORDS.values():
        for kind in get_args(record) or (record,):
            found[str(kind.__struct_config__.tag)] = kind
    return found


def generate() -> dict[str, bytes]:
    """Returns what the files must hold, by schema tag."""
    return {tag: _document(tag, kind) for tag, kind in sorted(wire_records().items())}


def read_published(folder: Path = FOLDER) -> dict[str, bytes]:
    """Returns what the files hold, by schema tag."""
    found = {path: path.read_bytes() for path in sorted(folder.glob("*.json"))}
    return {"/".join(path.stem.rsplit("-", 1)): text for path, text in found.items()}


def check(published: Mapping[str, bytes], generated: Mapping[str, bytes]) -> None:
    """Returns when the code still reads all that was published. Raises `SchemaBroken`."""
    changes: dict[str, list[str]] = {}
    for tag, text in published.items():
        if tag not in generated:
            changes[tag] = ["field schema: found no record with this tag, wanted it to stay"]
        elif lines := breaks(msgspec.json.decode(text), msgspec.json.decode(generated[tag])):
            changes[tag] = lines
    if changes:
        raise SchemaBroken(changes=changes)


def publish(folder: Path = FOLDER) -> list[str]:
    """Writes the files that differ and returns their tags. Raises `SchemaBroken`, writing none."""
    published, generated = read_published(folder), generate()
    check(published, generated)
    stale = [tag for tag, text in generated.items() if published.get(tag) != text]
    folder.mkdir(exist_ok=True)
    for tag in stale:
        (folder / file_of(tag)).write_bytes(generated[tag])
    return stale


def main() -> None:
    """Publishes and says what is new; a break is one line and exit code 1."""
    try:
        written = publish()
    except SchemaBroken as error:
        sys.exit(str(error))
    sys.stdout.write(f"{', '.join(written) or 'nothing new'}: schemas/json/\n")


def _document(tag: str, kind: Any) -> bytes:
    (reference,), definitions = msgspec.json.schema_components([kind])
    for definition in definitions.values():
        if text := definition.get("description"):
            definition["description"] = inspect.cleandoc(text)
    record = definitions.pop(reference["$ref"].rsplit("/", 1)[1])
    document = {"$schema": DIALECT, "$id": f"urn:oxygenrec:{tag.replace('/', ':')}", **record}
    if definitions:
        document["$defs"] = dict(sorted(definitions.items()))
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


if __name__ == "__main__":
    main()
