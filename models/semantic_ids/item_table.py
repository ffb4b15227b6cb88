"""Reads the catalogue that semantic IDs are fitted on or assigned to: items.parquet.

    item_id, title, brand?, category? "A > B > C", tags?, vector? (a list of floats)

One bad row never stops the good ones: it is left out and counted under its reason. A missing file
or column is an error. Needs pyarrow (the `datasets` extra).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from models.reasoning.item_text import item_text
from schemas.catalog import ItemUpsert
from schemas.errors import OxygenRecError

LONGEST_ID = 128  # schemas.actions.Identifier
LONGEST_TITLE = 2_000
LONGEST_TEXT = 512
_WORD = re.compile(r"\w")


class TableUnusable(OxygenRecError):
    """A Parquet file that is not there, cannot be read, lacks a column or holds no usable row."""

    def __init__(self, *, path: Path, column: str | None, found: str, wanted: str) -> None:
        self.path = path
        self.column = column
        self.found = found
        self.wanted = wanted
        where = f"{path}: column {column}" if column else f"{path}"
        super().__init__(f"{where}: found {found}, wanted {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The usable rows, in the file's order; `vectors` [n, M] has a row of 0 where none was given.

    `dropped` counts the other rows by reason.
    """

    item_ids: list[str]
    texts: list[str]
    categories: list[str]
    vectors: npt.NDArray[np.float32] | None = None
    dropped: dict[str, int] = field(default_factory=dict)


def read_items(path: Path) -> Items:
    """Returns the usable items of a Parquet file. Raises `TableUnusable`."""
    table = open_table(path, ("item_id", "title"))
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "vector"}
    vectors = _vectors(path, table)
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    kept, texts, categories = [], [], []
    for row in range(table.num_rows):
        item = _item({name: values[row] for name, values in columns.items()})
        reason = _why_not(item, seen) or (_why_not_vector(vectors, row) if vectors else None)
        if reason is not None:
            dropped[reason] += 1
            continue
        seen.add(item.item_id)
        kept.append((row, item.item_id))
        texts.append(item_text(item))
        categories.append(item.category)
    if not kept:
        found = f"{table.num_rows} rows ({reasons(dropped) or 'empty'})"
        raise TableUnusable(path=path, column=None, found=found, wanted="a usable item")
    return Items(
        item_ids=[item_id for _, item_id in kept],
        texts=texts,
        categories=categories,
        vectors=None if vectors is None else _stack(vectors, [row for row, _ in kept]),
        dropped=dict(dropped),
    )


def reasons(dropped: Mapping[str, int]) -> str:
    """Returns the reasons with their counts, most frequent first."""
    ordered = sorted(dropped.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


def open_table(path: Path, wanted: Sequence[str]) -> pa.Table:
    """Returns a Parquet file that has the columns `wanted`. Raises `TableUnusable`."""
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.parquet")) or ["no Parquet file"]
        found = (
            f"no such file, but {', '.join(beside[:8])}" if path.parent.is_dir() else "no folder"
        )
        raise TableUnusable(
            path=path, column=None, found=found, wanted=f"Parquet with {', '.join(wanted)}"
        )
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
        found = " ".join(str(error).split())[:200]
        raise TableUnusable(path=path, column=None, found=found, wanted="a Parquet file") from error
    for column in wanted:
        if column not in table.column_names:
            found = f"columns {', '.join(table.column_names)}"
            raise TableUnusable(path=path, column=column, found=found, wanted="such a column")
    return table


def _item(row: Mapping[str, Any]) -> ItemUpsert:
    """Where the title is missing, brand, category and tags stand in: the encoder needs words."""
    said = {k: str(row.get(k) or "").strip() for k in ("title", "brand", "category", "tags")}
    fallback = " ".join(said[name] for name in ("brand", "category", "tags"))
    item_id = row["item_id"]
    return ItemUpsert(
        item_id="" if item_id is None else str(item_id),
        title=(said["title"] or fallback.strip())[:LONGEST_TITLE],
        category=said["category"][:LONGEST_TEXT],
        brand=said["brand"][:LONGEST_TEXT],
    )


def _why_not(item: ItemUpsert, seen: set[str]) -> str | None:
    if not item.item_id:
        return "without item_id"
    if len(item.item_id) > LONGEST_ID:
        return f"with an item_id longer than {LONGEST_ID}"
    if item.item_id in seen:
        return "with an item_id given before"
    if not _WORD.search(item_text(item)):
        return "without a word in title, brand, category or tags"
    return None


def _vectors(path: Path, table: pa.Table) -> list[npt.NDArray[np.float32] | None] | None:
    """Returns the vectors, None where there is none; None when the table has no such column."""
    if "vector" not in table.column_names:
        return None
    kind = table.schema.field("vector").type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)) or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise TableUnusable(path=path, column="vector", found=str(kind), wanted="list of floats")
    rows = table["vector"].to_pylist()
    return [None if row is None else np.array(row, dtype=np.float32) for row in rows]


def _why_not_vector(vectors: list[npt.NDArray[np.float32] | None], row: int) -> str | None:
    vector = vectors[row]
    if vector is None:
        return None
    length = next(len(v) for v in vectors if v is not None)
    if len(vector) != length:
        return f"with a vector of another length than {length}"
    return None if np.isfinite(vector).all() else "with NaN or infinity in vector"


def _stack(
    vectors: list[npt.NDArray[np.float32] | None], rows: Sequence[int]
) -> npt.NDArray[np.float32] | None:
    length = next((len(v) for row in rows if (v := vectors[row]) is not None), 0)
    if length == 0:
        return None
    blank = np.zeros(length, dtype=np.float32)
    return np.stack([blank if (v := vectors[row]) is None else v for row in rows])
