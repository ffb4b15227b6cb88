"""Reads a user's own data: a folder with items.parquet and interactions.parquet or events.parquet.

Interactions are purchases or ratings in an order (`pos`) and on a day; events have a type and a
time. Neither holds queries: their instructions speak of choices and affinities alone. Needs
pyarrow (the `datasets` extra).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.actions import EARLIEST_EVENT_MS, ActionType, UserAction
from schemas.catalog import ItemUpsert
from schemas.errors import OxygenRecError
from schemas.topics import DAY_MS

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
SPACING_MS = 60_000  # several interactions of a day: a minute apart, in the order of `pos`


class UnusableFolder(OxygenRecError):
    """A data folder that lacks a file or a column."""

    def __init__(self, *, folder: Path, found: str, wanted: str) -> None:
        self.folder = folder
        self.found = found
        self.wanted = wanted
        super().__init__(f"data folder {folder}: found {found}, wanted {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderData:
    """Items and actions by time; `day_resolution` when nothing finer than a day is known."""

    items: list[ItemUpsert]
    actions: list[UserAction]
    day_resolution: bool


def read_folder(folder: Path) -> FolderData:
    """Returns items and training actions. Raises `UnusableFolder`, naming what to give.

    `interactions.parquet` comes first (rows whose `split` is not `train` are left out), then
    `events.parquet`.
    """
    if not (folder / "items.parquet").is_file():
        names = ", ".join(sorted(p.name for p in folder.glob("*"))) or "nothing"
        wanted = "items.parquet (item_id, title, brand, category) beside interactions.parquet"
        raise UnusableFolder(folder=folder, found=names, wanted=wanted)
    items = [_item(row) for row in _rows(folder, "items.parquet", ("item_id",))]
    if (folder / "interactions.parquet").is_file():
        actions, fine = list(_interactions(folder)), False
    elif (folder / "events.parquet").is_file():
        actions, fine = list(read_events(folder)), True
    else:
        wanted = "interactions.parquet (user_id, item_id, pos) or events.parquet"
        raise UnusableFolder(folder=folder, found="items.parquet alone", wanted=wanted)
    known = {item.item_id for item in items}
    actions = [action for action in actions if action.item_id in known]
    actions.sort(key=lambda action: (action.event_time_ms, action.event_id))
    return FolderData(items=items, actions=actions, day_resolution=not fine)


def read_events(folder: Path) -> Iterator[UserAction]:
    """Yields the rows of events.parquet (user, item, event, ts in s or ms); ts < 0 is held out."""
    wanted = ("user", "item", "event", "ts")
    for number, row in enumerate(_rows(folder, "events.parquet", wanted)):
        action = EVENT_NAMES.get(str(row["event"]).lower())
        if row["ts"] < 0 or action is None:
            continue
        at_ms = int(row["ts"]) if row["ts"] >= MILLISECONDS_FROM else int(row["ts"]) * 1_000
        yield _action(f"event-{number}", row["user"], row["item"], action, at_ms)


def _interactions(folder: Path) -> Iterator[UserAction]:
    rows = _rows(folder, "interactions.parquet", ("user_id", "item_id", "pos"))
    for number, row in enumerate(rows):
        if row.get("split", "train") == "train":
            day_ms = max(int(row.get("day") or 0) * DAY_MS, EARLIEST_EVENT_MS)
            at_ms = day_ms + int(row["pos"]) * SPACING_MS
            name = f"interaction-{number}"
            yield _action(name, row["user_id"], row["item_id"], ActionType.ORDER, at_ms)


def _action(
    event_id: str, user: object, item: object, action: ActionType, at_ms: int
) -> UserAction:
    return UserAction(
        event_id=event_id,
        user_id=str(user),
        action=action,
        event_time_ms=at_ms,
        item_id=str(item),
    )


def _item(row: Mapping[str, Any]) -> ItemUpsert:
    """Where the title is missing, brand, category and tags stand in: the encoder needs words."""
    fallback = " ".join(str(row.get(name) or "") for name in ("brand", "category", "tags"))
    return ItemUpsert(
        item_id=str(row["item_id"]),
        title=(str(row.get("title") or "") or fallback.strip())[:2_000],
        category=str(row.get("category") or "")[:512],
        brand=str(row.get("brand") or "")[:512],
    )


def _rows(folder: Path, name: str, wanted: Iterable[str]) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        found, needed = "no pyarrow in this environment", "the `datasets` extra (make setup)"
        raise UnusableFolder(folder=folder, found=found, wanted=needed) from error
    table = parquet.read_table(folder / name)
    missing = sorted(set(wanted) - set(table.column_names))
    if missing:
        found = f"{name} with columns {', '.join(table.column_names)}"
        raise UnusableFolder(folder=folder, found=found, wanted="column " + ", ".join(missing))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
