"""The item index on disk and out of `semantic-ids`: one snapshot a policy version.

N items, K scenarios, L levels, C content dimensions.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.decoding.item_index import ItemIndex, ItemIndexInvalid
from models.tensor_file import read_tensors, write_tensors
from models.vectors import unpack
from schemas.catalog import SidAssignment

FILE_NAME = "index.safetensors"
_ARRAYS = ("item_keys", "codes", "embeddings", "in_stock", "scenario_masks")


def index_of(
    assignments: Sequence[SidAssignment], *, generation: int, scenarios: Sequence[str]
) -> ItemIndex:
    """Returns the index of the newest assignment of every item of one generation.

    `assignments` stand in the order of the log. A scenario no policy knows is ignored.
    Raises `ItemIndexInvalid`, also when the generation has no item.
    """
    newest = {a.item_key: a for a in assignments if a.generation == generation}
    if not newest:
        found = f"{len(assignments)} assignments, none of generation {generation}"
        raise ItemIndexInvalid(field="semantic-ids", found=found, wanted="at least one item")
    return ItemIndex.build(**arrays_of(list(newest.values()), scenarios))


def arrays_of(items: Sequence[SidAssignment], scenarios: Sequence[str]) -> dict[str, torch.Tensor]:
    """Returns items, each named once, as `ItemIndex.build` and `ItemIndex.grown` take them.

    Raises `ItemIndexInvalid` where they are not of one shape.
    """
    for name, lengths in (
        ("sid", {len(a.sid) for a in items}),
        ("embedding", {len(a.embedding) for a in items}),
    ):
        if len(lengths) > 1:
            raise ItemIndexInvalid(field=name, found=f"lengths {sorted(lengths)}", wanted="one")
    return {
        "keys": torch.tensor([a.item_key for a in items], dtype=torch.int64),
        "codes": torch.tensor([a.sid for a in items], dtype=torch.int64),
        "content": torch.from_numpy(np.stack([unpack(a.embedding) for a in items])),
        "in_stock": torch.tensor([a.in_stock for a in items]),
        "scenarios": shown_in(items, scenarios),
    }


def shown_in(items: Sequence[SidAssignment], scenarios: Sequence[str]) -> torch.Tensor:
    """Returns which scenario shows which item, bool [K, X]."""
    shown = [[a.scenarios is None or s in a.scenarios for a in items] for s in scenarios]
    return torch.tensor(shown, dtype=torch.bool)


def save_index(folder: Path, index: ItemIndex) -> None:
    """Writes `index.safetensors`: the items alone, for the structure follows from them."""
    arrays = {
        "item_keys": index.keys_N.numpy(),
        "codes": index.codes_NL.numpy(),
        "embeddings": index.content_NC.numpy(),
        "in_stock": index.in_stock_N.numpy(),
        "scenario_masks": index.scenarios_KN.numpy(),
    }
    write_tensors(folder / FILE_NAME, arrays)


def load_index(folder: Path) -> ItemIndex:
    """Returns the index saved in `folder`. Raises `TensorFileInvalid`, `ItemIndexInvalid`."""
    arrays = read_tensors(folder / FILE_NAME, require=_ARRAYS)
    keys, codes, content, stock, scenarios = (torch.from_numpy(arrays[name]) for name in _ARRAYS)
    return ItemIndex.build(
        keys=keys, codes=codes, content=content, in_stock=stock, scenarios=scenarios
    )
