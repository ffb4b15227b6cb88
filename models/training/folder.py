"""Reads a user's own data: a folder with items.parquet and interactions.parquet or events.parquet.

Interactions are purchases or ratings in an order (`pos`) and on a day; events have a type and a
time. Neither holds queries: their instructions speak of choices and affinities alone. Needs
pyarrow (the `datasets` extra).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from models.training.rows import (
    EVENT_COLUMNS,
    ITEM_COLUMNS,
    ParquetRows,
    UnusableFolder,
    event_of,
    item_of,
)
from schemas.actions import EARLIEST_EVENT_MS, ActionType, UserAction
from schemas.catalog import ItemUpsert
from schemas.topics import DAY_MS

SPACING_MS = 60_000  # several interactions of a day: a minute apart, in the order of `pos`


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
    rows = map(item_of, _rows(folder, "items.parquet", ITEM_COLUMNS))
    items = [item for item in rows if isinstance(item, ItemUpsert)]
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
    """Yields the usable rows of events.parquet; `oxygenrec import` says why others are not."""
    for number, row in enumerate(_rows(folder, "events.parquet", EVENT_COLUMNS)):
        action = event_of(row, f"event-{number}")
        if isinstance(action, UserAction):
            yield action


def _interactions(folder: Path) -> Iterator[UserAction]:
    rows = _rows(folder, "interactions.parquet", ("user_id", "item_id", "pos"))
    for number, row in enumerate(rows):
        if row.get("split", "train") == "train":
            day_ms = max(int(row.get("day") or 0) * DAY_MS, EARLIEST_EVENT_MS)
            at_ms = day_ms + int(row["pos"]) * SPACING_MS
            yield UserAction(
                event_id=f"interaction-{number}",
                user_id=str(row["user_id"]),
                action=ActionType.ORDER,
                event_time_ms=at_ms,
                item_id=str(row["item_id"]),
            )


def _rows(folder: Path, name: str, wanted: Iterable[str]) -> ParquetRows:
    rows = ParquetRows(folder / name)
    rows.require(wanted)
    return rows
