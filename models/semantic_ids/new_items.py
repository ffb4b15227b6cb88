"""Gives items that came after the fit their semantic IDs, by what was frozen. numpy only.

Nothing is fitted here, so an item's SID does not depend on what else is new (ALGORITHMS 1.5).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.semantic_ids.assigned_items import AssignedItems
from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.encoders import TextEncoder, encode_all
from models.semantic_ids.item_features import ItemFeatures

if TYPE_CHECKING:  # the tables need pyarrow, which an agent may lack
    from models.semantic_ids.item_table import Items

Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # stage, done, total


def assign_new(
    items: "Items",
    encoder: TextEncoder,
    features: ItemFeatures,
    codebooks: Codebooks,
    progress: Progress,
) -> AssignedItems:
    """Returns new items with their SIDs: nothing is fitted, behaviour is what the text predicts.

    Raises `ItemFeaturesMismatch`.
    """
    texts = encode_all(encoder, items.texts, stage_of(progress, "text"))
    return quantised(items, features.features(texts, vectors=items.vectors), codebooks, progress)


def without_known(items: "Items", known: set[str]) -> "Items":
    """Returns the items that have no SID yet; the others are counted as dropped."""
    kept = [row for row, item_id in enumerate(items.item_ids) if item_id not in known]
    dropped = dict(items.dropped)
    if len(kept) < len(items.item_ids):
        dropped["with a semantic ID already"] = len(items.item_ids) - len(kept)
    return replace(
        items,
        item_ids=[items.item_ids[row] for row in kept],
        texts=[items.texts[row] for row in kept],
        categories=[items.categories[row] for row in kept],
        vectors=None if items.vectors is None else items.vectors[kept],
        dropped=dropped,
    )


def quantised(
    items: "Items", rows: Floats, codebooks: Codebooks, progress: Progress
) -> AssignedItems:
    """Returns `items` with the SIDs of their features `rows` [n, D]."""
    sids, squared_errors = codebooks.quantise(rows, stage_of(progress, "assignment"))
    return AssignedItems(
        item_ids=items.item_ids,
        categories=items.categories,
        sids=sids,
        squared_errors=squared_errors,
        squared_lengths=(rows**2).sum(axis=1),
    )


def stage_of(progress: Progress, stage: str) -> Callable[[int, int], None]:
    """Returns what tells `progress` how far `stage` is."""
    return lambda done, total: progress(stage, done, total)
