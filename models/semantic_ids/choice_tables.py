"""Reads who chose what with what, and by which query, from a data folder.

    interactions.parquet  user_id, item_id, pos, split?  or events.parquet  user, item, event, ts
    queries.parquet       query_id, text           and query_items.parquet  query_id, item_id

All of them are optional. What is held out stays out: semantic IDs must not know the future that
they are judged by. Needs pyarrow (the `datasets` extra).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from models.semantic_ids.cooccurrence import Behaviour, count_pairs, count_queries
from models.semantic_ids.item_table import TableUnusable, open_table

NOT_A_CHOICE = ("expose", "search")


def read_behaviour(folder: Path, item_ids: Sequence[str], window: int) -> Behaviour | None:
    """Returns the co-occurrence in `folder`, or None where it has neither interactions nor queries.

    Rows whose `split` is not `train`, held-out events (ts < 0) and items that are not in `item_ids`
    are left out. Raises `TableUnusable`.
    """
    try:
        return _behaviour(folder, pa.array(item_ids, pa.string()), window)
    except pa.ArrowException as error:  # a column of another type than its name says
        found = " ".join(str(error).split())[:200]
        wanted = "ids of one kind in all tables, numbers in pos and ts, words in split and event"
        raise TableUnusable(path=folder, column=None, found=found, wanted=wanted) from error


def _behaviour(folder: Path, known: pa.Array, window: int) -> Behaviour | None:
    interactions, dropped = _interactions(folder)
    queries, texts = _queries(folder, known, dropped)
    if interactions is None and queries is None:
        return None
    pairs, used = csr_matrix((len(known), len(known))), 0
    if interactions is not None:
        users, items = _known_items(interactions, known, dropped)
        pairs, used = count_pairs(users, items, len(known), window), len(items)
    return Behaviour(
        pairs=pairs,
        queries=queries,
        query_texts=texts,
        interactions=used,
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _interactions(folder: Path) -> tuple[pa.Table | None, Counter[str]]:
    """Returns user and item of each choice, a user's rows together and in order."""
    dropped: Counter[str] = Counter()
    if (folder / "interactions.parquet").is_file():
        table = open_table(folder / "interactions.parquet", ("user_id", "item_id", "pos"))
        kept = table
        if "split" in table.column_names:
            kept = table.filter(pc.equal(table["split"], "train"))
        dropped["interactions held out by split"] = table.num_rows - kept.num_rows
        kept = kept.sort_by([("user_id", "ascending"), ("pos", "ascending")])
        return kept.select(["user_id", "item_id"]), dropped
    if (folder / "events.parquet").is_file():
        table = open_table(folder / "events.parquet", ("user", "item", "event", "ts"))
        chosen = pc.invert(pc.is_in(table["event"], pa.array(NOT_A_CHOICE)))
        kept = table.filter(pc.and_(chosen, pc.greater_equal(table["ts"], 0)))
        dropped["events held out or without a choice"] = table.num_rows - kept.num_rows
        kept = kept.sort_by([("user", "ascending"), ("ts", "ascending")])
        return kept.select(["user", "item"]).rename_columns(["user_id", "item_id"]), dropped
    return None, dropped


def _known_items(
    table: pa.Table, known: pa.Array, dropped: Counter[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    rows = pc.index_in(pc.cast(table["item_id"], pa.string()), known).combine_chunks()
    held = pc.is_valid(rows)
    users = pc.filter(table["user_id"].combine_chunks(), held).dictionary_encode().indices
    items = pc.filter(rows, held)
    dropped["interactions with an unknown item"] = len(rows) - len(items)
    return (
        users.to_numpy(zero_copy_only=False).astype(np.int64),
        items.to_numpy(zero_copy_only=False).astype(np.int64),
    )


def _queries(
    folder: Path, known: pa.Array, dropped: Counter[str]
) -> tuple[csr_matrix | None, list[str]]:
    if not (folder / "query_items.parquet").is_file():
        return None, []
    found = open_table(folder / "query_items.parquet", ("query_id", "item_id"))
    said = open_table(folder / "queries.parquet", ("query_id", "text"))
    rows = pc.index_in(pc.cast(found["item_id"], pa.string()), known).combine_chunks()
    asked = pc.index_in(found["query_id"], said["query_id"].combine_chunks()).combine_chunks()
    held = pc.and_(pc.is_valid(rows), pc.is_valid(asked))
    dropped["query items with an unknown item or query"] = len(rows) - pc.sum(held).as_py()
    items = pc.filter(rows, held).to_numpy(zero_copy_only=False).astype(np.int64)
    queries = pc.filter(asked, held).to_numpy(zero_copy_only=False).astype(np.int64)
    texts = [str(text or "") for text in said["text"].to_pylist()]
    return count_queries(items, queries, (len(known), len(texts))), texts
