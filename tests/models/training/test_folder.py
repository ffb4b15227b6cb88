"""A user's own folder: what is read, and the one line that says what is missing."""

from pathlib import Path
from typing import Any

import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from models.training.folder import read_folder  # noqa: E402  after the skip
from models.training.rows import UnusableFolder  # noqa: E402  after the skip
from schemas.actions import ActionType  # noqa: E402  after the skip


def write(folder: Path, name: str, **columns: list[Any]) -> None:
    parquet.write_table(pyarrow.table(columns), folder / name)


def items(folder: Path) -> None:
    write(
        folder,
        "items.parquet",
        item_id=[1, 2],
        title=["Wand", None],
        brand=["Ace", "Bo"],
        category=["A > B", "A > C"],
    )


def test_interactions_keep_their_order_and_leave_held_out_rows_out(tmp_path: Path) -> None:
    items(tmp_path)
    write(
        tmp_path,
        "interactions.parquet",
        user_id=[7, 7, 7, 7],
        item_id=[2, 1, 9, 1],
        pos=[1, 0, 2, 3],
        day=[15_000, 15_000, 15_001, 15_002],
        split=["train", "train", "train", "test"],
    )
    data = read_folder(tmp_path)
    assert [action.item_id for action in data.actions] == ["1", "2"]
    assert {action.action for action in data.actions} == {ActionType.ORDER}
    assert data.day_resolution
    assert [item.title for item in data.items] == ["Wand", "Bo A > C"]


def test_events_have_types_and_times_in_seconds_or_milliseconds(tmp_path: Path) -> None:
    items(tmp_path)
    write(
        tmp_path,
        "events.parquet",
        user=[1, 1, 1, 1],
        item=[1, 2, 1, 2],
        event=["view", "buy", "addtocart", "buy"],
        ts=[1_437_350_466, -1, 1_437_350_467_000, 1_437_350_468],
    )
    data = read_folder(tmp_path)
    kinds = [(action.action, action.event_time_ms) for action in data.actions]
    assert kinds == [
        (ActionType.VIEW, 1_437_350_466_000),
        (ActionType.CART, 1_437_350_467_000),
        (ActionType.ORDER, 1_437_350_468_000),
    ]
    assert not data.day_resolution


def test_a_folder_without_items_is_named_with_what_to_give(tmp_path: Path) -> None:
    write(tmp_path, "events.parquet", user=[1], item=[1], event=["view"], ts=[1])
    with pytest.raises(UnusableFolder) as caught:
        read_folder(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    assert "found events.parquet, wanted items.parquet (item_id, title" in message


def test_items_alone_and_missing_columns_are_refused(tmp_path: Path) -> None:
    items(tmp_path)
    with pytest.raises(UnusableFolder, match=r"wanted interactions\.parquet"):
        read_folder(tmp_path)
    write(tmp_path, "interactions.parquet", user_id=[1], item_id=[1])
    with pytest.raises(UnusableFolder, match="wanted column pos"):
        read_folder(tmp_path)
