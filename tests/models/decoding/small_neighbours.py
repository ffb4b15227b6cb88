"""A table of neighbours on a small catalogue, for the tests of several rooms."""

import numpy as np

from models.decoding.item_index import ItemIndex
from models.decoding.neighbours import NeighbourConfig, Neighbours
from models.training.neighbour_table import table_of


def small_neighbours(index: ItemIndex, weight: float = 1.0, seed: int = 0) -> Neighbours:
    """40 users choose 6 items each; a fifth of the catalogue is chosen by nobody."""
    keys = index.keys_N.numpy()
    chosen = np.random.default_rng(seed).choice(keys[: len(keys) * 4 // 5], (40, 6))
    config = NeighbourConfig(weight=weight, floor=1e-4)
    table = table_of(np.repeat(np.arange(40), 6), chosen.ravel(), config)
    assert table is not None
    return table
