"""interactions, events and queries of a data folder."""

from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")

from pyarrow import parquet  # noqa: E402  pyarrow may be missing

from models.semantic_ids.choice_tables import read_behaviour  # noqa: E402  needs pyarrow
from models.semantic_ids.cooccurrence import Behaviour  # noqa: E402  behind pyarrow too
from models.semantic_ids.item_table import TableUnusable  # noqa: E402  needs pyarrow

ITEMS = ["10", "20", "30"]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    parquet.write_table(pa.Table.from_pylist(rows), folder / name)


def choice(user: int, item: int, pos: int, split: str = "train") -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "pos": pos, "split": split}


def read(folder: Path) -> Behaviour:
    found = read_behaviour(folder, ITEMS, 5)
    assert found is not None
    return found


def test_pairs_follow_the_position_and_leave_out_what_is_held_out_or_unknown(
    tmp_path: Path,
) -> None:
    rows = [
        *(choice(2, 30, 1), choice(1, 30, 2), choice(1, 10, 0), choice(1, 20, 1)),
        *(choice(1, 99, 3), choice(2, 10, 0), choice(2, 20, 2, "valid")),
    ]
    write(tmp_path, "interactions.parquet", rows)
    found = read(tmp_path)
    # User 1: 10, 20, 30; user 2: 10, 30.
    assert found.pairs.toarray().tolist() == [[0, 1, 1.5], [1, 0, 1], [1.5, 1, 0]]
    assert found.interactions == 5
    assert found.dropped == {
        "interactions held out by split": 1,
        "interactions with an unknown item": 1,
    }


def test_events_are_ordered_by_time_and_only_choices_count(tmp_path: Path) -> None:
    rows = [
        {"user": "u", "item": "20", "event": "view", "ts": 5},
        {"user": "u", "item": "10", "event": "view", "ts": 1},
        {"user": "u", "item": "30", "event": "expose", "ts": 2},
        {"user": "u", "item": "30", "event": "buy", "ts": -1},
    ]
    write(tmp_path, "events.parquet", rows)
    found = read(tmp_path)
    assert found.pairs.toarray().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert found.dropped == {"events held out or without a choice": 2}


def test_queries_count_their_known_items(tmp_path: Path) -> None:
    write(
        tmp_path, "queries.parquet", [{"query_id": 4, "text": "rain"}, {"query_id": 2, "text": "x"}]
    )
    found_by = [(4, 10), (4, 30), (2, 30), (9, 10), (4, 77)]
    rows = [{"query_id": q, "item_id": i} for q, i in found_by]
    write(tmp_path, "query_items.parquet", rows)
    found = read(tmp_path)
    assert found.query_texts == ["rain", "x"]
    assert found.queries is not None
    assert found.queries.toarray().tolist() == [[1, 0], [0, 0], [1, 1]]
    assert found.pairs.nnz == 0
    assert found.dropped == {"query items with an unknown item or query": 2}


def test_a_folder_without_choices_has_no_behaviour(tmp_path: Path) -> None:
    assert read_behaviour(tmp_path, ITEMS, 5) is None


def test_a_column_of_another_type_is_refused_with_what_was_found(tmp_path: Path) -> None:
    write(tmp_path, "events.parquet", [{"user": 1, "item": 10, "event": "view", "ts": "noon"}])
    with pytest.raises(TableUnusable, match=r"found .*string.*, wanted ids of one kind"):
        read(tmp_path)


def test_a_missing_column_or_a_missing_half_of_the_queries_is_named(tmp_path: Path) -> None:
    write(tmp_path, "query_items.parquet", [{"query_id": 1, "item_id": 10}])
    with pytest.raises(TableUnusable, match=r"queries.parquet: found no such file"):
        read(tmp_path)
    write(tmp_path, "interactions.parquet", [{"user_id": 1, "item_id": 10}])
    with pytest.raises(TableUnusable, match="column pos: found columns user_id, item_id, wanted"):
        read(tmp_path)
