"""Says what a new JSON Schema would break for bytes that the old one described. Pure.

Bytes rest in Kafka for days or for ever (compacted topics), so within one schema tag fields are
only added, with defaults; types, bounds and enumerations only widen; defaults stay, because a
writer leaves out a field that has its default.
"""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

UPPER = ("maxLength", "maximum", "exclusiveMaximum", "maxItems", "maxProperties")
LOWER = ("minLength", "minimum", "exclusiveMinimum", "minItems", "minProperties")
EXACT = ("pattern", "format", "contentEncoding", "multipleOf")
# What reads more than its own kind
WIDER = {"integer": ("number",), "enum": ("string",)}
MISSING = object()


def breaks(old: Schema, new: Schema) -> list[str]:
    """Returns one line a break, `field PATH: found ..., wanted ...`; nothing when all is well."""
    return list(_Comparison(old, new).compare(old, new, ""))


class _Comparison:
    """Two documents, each with the `$defs` that its references name."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old_defs = old.get("$defs", {})
        self._new_defs = new.get("$defs", {})

    def compare(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        """Yields what the new schema at `path` does not read of what the old one wrote."""
        new_by_kind = {_kind(one): one for one in _variants(new, self._new_defs)}
        for variant in _variants(old, self._old_defs):
            kind = _kind(variant)
            accepting = [k for k in (kind, *WIDER.get(kind, ()), "any") if k in new_by_kind]
            if not accepting:
                yield _line(path, " or ".join(new_by_kind), f"{kind} to be read as before")
            elif accepting[0] == kind:
                yield from self._same_kind(variant, new_by_kind[kind], path)

    def _same_kind(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        yield from _tighter_bounds(old, new, path)
        if gone := [value for value in old.get("enum", ()) if value not in new.get("enum", ())]:
            yield _line(path, f"no value {', '.join(map(str, gone))}", "values to be added only")
        if "items" in old or "items" in new:
            yield from self.compare(old.get("items", {}), new.get("items", {}), f"{path}[]")
        if "additionalProperties" in old or "additionalProperties" in new:
            before, after = (side.get("additionalProperties", {}) for side in (old, new))
            yield from self.compare(before, after, f"{path}{{}}")
        yield from self._fields(old, new, path)

    def _fields(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in sorted(before.keys() - after.keys()):
            yield _line(_join(path, name), "no such field", "the field to stay")
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            found = "a required field" if name in before else "a new field without a default"
            yield _line(_join(path, name), found, "a default: old bytes lack the field")
        for name in sorted(before.keys() & after.keys()):
            defaults = [side[name].get("default", MISSING) for side in (before, after)]
            if MISSING not in defaults and defaults[0] != defaults[1]:
                wanted = f"{defaults[0]!r}: bytes without the field mean that"
                yield _line(_join(path, name), f"default {defaults[1]!r}", wanted)
            yield from self.compare(before[name], after[name], _join(path, name))


def _variants(schema: Schema, defs: Schema) -> Iterator[Schema]:
    """Yields the alternatives of a schema, references followed."""
    if reference := schema.get("$ref"):
        yield from _variants(defs[reference.rsplit("/", 1)[1]], defs)
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _variants(one, defs)
    else:
        yield schema


def _kind(schema: Schema) -> str:
    kind: str = schema.get("type", "enum" if "enum" in schema else "any")
    return kind


def _tighter_bounds(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for name in (*UPPER, *LOWER):
        before, after = old.get(name), new.get(name)
        if after is None or after == before:
            continue
        if before is None or (after < before if name in UPPER else after > before):
            yield _line(path, f"{name} {after}", f"{name} {before or 'absent'}, or wider")
    for name in EXACT:
        if name in new and new[name] != old.get(name):
            yield _line(path, f"{name} {new[name]}", f"{name} {old.get(name, 'absent')}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _line(path: str, found: str, wanted: str) -> str:
    return f"field {path or '$'}: found {found}, wanted {wanted}"
