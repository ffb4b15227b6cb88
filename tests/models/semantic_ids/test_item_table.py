"""items.parquet: good rows pass, bad ones are counted, files that cannot be used are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")

from pyarrow import parquet  # noqa: E402  pyarrow may be missing

from models.semantic_ids.item_table import TableUnusable, read_items, reasons  # noqa: E402  needs pyarrow

GOOD = {"item_id": "a", "title": "Red Umbrella", "brand": "Nor", "category": "Outdoor > Umbrellas"}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "items.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_good_rows_pass_beside_bad_ones_and_these_are_counted_by_reason(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        GOOD,
        {**GOOD, "title": "the same id again"},
        {**GOOD, "item_id": None},
        {**GOOD, "item_id": "x" * 129},
        {"item_id": "b", "title": " ", "brand": "", "category": ""},
        {"item_id": "c", "title": None, "brand": "Vel", "category": "Outdoor"},
    ]
    items = read_items(write(tmp_path, rows))
    assert items.item_ids == ["a", "c"]
    assert items.texts == ["Red Umbrella Nor Outdoor Umbrellas", "Vel Outdoor Outdoor"]
    assert items.categories == ["Outdoor > Umbrellas", "Outdoor"]
    assert items.vectors is None
    assert items.dropped == {
        "with an item_id given before": 1,
        "without item_id": 1,
        "with an item_id longer than 128": 1,
        "without a word in title, brand, category or tags": 1,
    }


def test_numbers_are_item_ids_too_and_brand_and_category_may_be_missing(tmp_path: Path) -> None:
    items = read_items(write(tmp_path, [{"item_id": 7, "title": "Tent"}]))
    assert (items.item_ids, items.texts) == (["7"], ["Tent"])


def test_vectors_must_be_finite_and_of_one_length_or_absent(tmp_path: Path) -> None:
    vectors = [[1.0, 2.0], [float("nan"), 1.0], [1.0], None, [3.0, 4.0]]
    rows = [{"item_id": i, "title": f"t{i}", "vector": v} for i, v in enumerate(vectors)]
    items = read_items(write(tmp_path, rows))
    assert items.item_ids == ["0", "3", "4"]
    assert items.vectors is not None
    np.testing.assert_array_equal(items.vectors, [[1, 2], [0, 0], [3, 4]])
    assert items.dropped == {
        "with NaN or infinity in vector": 1,
        "with a vector of another length than 2": 1,
    }


def test_a_file_that_cannot_be_used_is_named_with_column_found_and_wanted(tmp_path: Path) -> None:
    with pytest.raises(TableUnusable, match=r"nowhere/items.parquet: found no folder"):
        read_items(tmp_path / "nowhere" / "items.parquet")
    with pytest.raises(TableUnusable, match=r"items.parquet: found no such file, but no Parquet"):
        read_items(tmp_path / "items.parquet")
    path = write(tmp_path, [{"item_id": "a", "name": "x"}])
    with pytest.raises(TableUnusable, match="column title: found columns item_id, name, wanted"):
        read_items(path)
    text = write(tmp_path, [{**GOOD, "vector": "1 2 3"}])
    with pytest.raises(TableUnusable, match="column vector: found string, wanted list of floats"):
        read_items(text)
    path.write_bytes(b"no parquet")
    with pytest.raises(TableUnusable, match="wanted a Parquet file"):
        read_items(path)


def test_a_file_without_one_usable_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    path = write(tmp_path, [{"item_id": "a", "title": ""}, {"item_id": "b", "title": "!"}])
    with pytest.raises(TableUnusable, match=r"2 rows \(2 without a word"):
        read_items(path)


def test_reasons_come_with_the_most_frequent_first() -> None:
    assert reasons({"odd": 2, "bad": 1_000, "apt": 2}) == "1,000 bad, 2 apt, 2 odd"
