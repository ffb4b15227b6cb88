"""Rows of a user's own Parquet files to records: one rule for training and for bulk import.

`items.parquet`: item_id, and what is known of title, brand, category, tags, price, in_stock.
`events.parquet`: user, item, event, ts (s, ms or a timestamp; negative: held out), and, where they
are known, event_id, query, scenario, price, quantity, request_id. Needs pyarrow (the `datasets`
extra) to read, nothing to convert.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert
from schemas.codec import explain
from schemas.dead_letters import Reason, Rejection
from schemas.errors import OxygenRecError

ITEM_COLUMNS = ("item_id",)
EVENT_COLUMNS = ("user", "item", "event", "ts")

# Spelling of the public data sets on the left.
EVENT_NAMES: dict[str, ActionType] = {
    **{action.value: action for action in ActionType},
    "addtocart": ActionType.CART,
    "clicks": ActionType.CLICK,
    "carts": ActionType.CART,
    "orders": ActionType.ORDER,
    "buy": ActionType.ORDER,
    "purchase": ActionType.ORDER,
    "transaction": ActionType.ORDER,
}
MILLISECONDS_FROM = 100_000_000_000  # larger than any second before the year 5138
BATCH_ROWS = 8_192  # what is in memory at once: 100 bytes to 1 kB a row

T = TypeVar("T")


class UnusableFolder(OxygenRecError):
    """A data folder that lacks a file or a column."""

    def __init__(self, *, folder: Path, found: str, wanted: str) -> None:
        self.folder = folder
        self.found = found
        self.wanted = wanted
        super().__init__(f"data folder {folder}: found {found}, wanted {wanted}")


class ParquetRows:
    """The rows of one Parquet file as dictionaries, read in batches."""

    def __init__(self, path: Path) -> None:
        """Opens a file. Raises `UnusableFolder` where there is none, or no pyarrow to read it."""
        try:
            from pyarrow import ArrowException, parquet
        except ImportError as error:
            found, needed = "no pyarrow in this environment", "the `datasets` extra (make setup)"
            raise UnusableFolder(folder=path.parent, found=found, wanted=needed) from error
        try:
            self._file = parquet.ParquetFile(path)
        except (OSError, ArrowException) as error:
            found = f"{path.name} unreadable ({str(error)[:200]})"
            raise UnusableFolder(
                folder=path.parent, found=found, wanted="a Parquet file"
            ) from error
        self.path = path
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._file.iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()

    def require(self, wanted: Iterable[str]) -> None:
        """Returns when the columns are there. Raises `UnusableFolder` naming those that lack."""
        if missing := sorted(set(wanted) - set(self.columns)):
            found = f"{self.path.name} with columns {', '.join(self.columns)}"
            raise UnusableFolder(
                folder=self.path.parent, found=found, wanted="column " + ", ".join(missing)
            )


def item_of(row: Mapping[str, Any]) -> ItemUpsert | Rejection:
    """Returns the item of a row, or why it is none.

    Where the title is missing, brand, category and tags stand in: the encoder needs words.
    """
    item_id = identifier(row.get("item_id"))
    if item_id is None:
        return _missing("item_id", "the id of the item")
    fallback = " ".join(_text(row, name) for name in ("brand", "category", "tags"))
    fields: dict[str, Any] = {
        "item_id": item_id,
        "title": (_text(row, "title") or fallback.strip())[:2_000],
        "category": _text(row, "category")[:512],
        "brand": _text(row, "brand")[:512],
    }
    fields |= {name: row[name] for name in ("price", "in_stock") if _given(row, name)}
    return _converted(fields, ItemUpsert)


def event_of(row: Mapping[str, Any], event_id: str) -> UserAction | Rejection:
    """Returns the action of a row, or why it is none. An `event_id` of the row's own comes first.

    What only a shop knows (its scenarios, its clock) is not judged here: `reject_action` does.
    """
    action = EVENT_NAMES.get(str(row["event"]).lower())
    if action is None:
        wanted = "one of " + ", ".join(EVENT_NAMES)
        return _rejected(Reason.UNKNOWN_ACTION, "event", str(row["event"]), wanted)
    event_time_ms = time_ms_of(row["ts"])
    if event_time_ms is None:
        wanted = "a time in s or ms since 1970, or a timestamp; a negative one is held out"
        return _rejected(Reason.ABSURD_TIME, "ts", str(row["ts"]), wanted)
    user_id = identifier(row["user"])
    if user_id is None:
        return _missing("user", "the id of the user")
    fields: dict[str, Any] = {
        "event_id": identifier(row.get("event_id")) or event_id,
        "user_id": user_id,
        "action": action,
        "event_time_ms": event_time_ms,
        "item_id": identifier(row["item"]),
    }
    texts = ("query", "scenario", "request_id")
    fields |= {name: str(row[name]) for name in texts if _given(row, name)}
    fields |= {name: row[name] for name in ("price", "quantity") if _given(row, name)}
    return _converted(fields, UserAction)


def time_ms_of(value: Any) -> int | None:
    """Returns s, ms or a timestamp as ms; None for what is no time, or before 1970."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        value = int(aware.timestamp() * 1_000)
        return value if value >= 0 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    if math.isinf(value):
        return None
    return int(value) if value >= MILLISECONDS_FROM else int(value * 1_000)


def identifier(value: Any) -> str | None:
    """Returns an id as text; None where there is none. A column with gaps turns 7 into 7.0."""
    if value is None or value == "" or value != value:  # NaN differs from itself
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _converted(fields: dict[str, Any], record: type[T]) -> T | Rejection:
    try:
        return msgspec.convert(fields, record)
    except msgspec.ValidationError as error:
        why = explain(error)
    return _rejected(Reason(why.reason), why.field, why.found, why.wanted)


def _given(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    return value is not None and value == value


def _text(row: Mapping[str, Any], name: str) -> str:
    return str(row[name]) if _given(row, name) else ""


def _missing(field: str, wanted: str) -> Rejection:
    return _rejected(Reason.MISSING_FIELD, field, "nothing", wanted)


def _rejected(reason: Reason, field: str, found: str, wanted: str) -> Rejection:
    return Rejection(reason=reason, field=field, found=found[:80], wanted=wanted)
