"""How large is the item index, how long does it take to build, and to change?

Random SIDs (V 8192, 3 levels: nearly each item is a leaf of its own, the worst case for a structure
by prefix) and clustered ones (each prefix of two codes continues about five times). One scenario,
no content vectors, one thread. New items make a larger index beside the one in use.
--quick: 200,000 items, not 10 millions.
"""

import time
from collections.abc import Callable
from itertools import cycle
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.report import arguments, finish, show
from models.decoding.item_index import ItemIndex

ITEMS, QUICK_ITEMS = 10_000_000, 200_000
CODES = 8_192
TOGGLES = 1_000
EXCLUDED = 100
REPEATS = 7


def main() -> None:
    """Prints bytes, build seconds, ms a thousand stock changes and ms the masks of a request."""
    given = arguments(__doc__)
    started = time.monotonic()
    torch.set_num_threads(1)
    items = QUICK_ITEMS if given.quick else ITEMS
    results = {name: _measure(codes(items)) for name, codes in CATALOGUES.items()}
    figures = list(next(iter(results.values())))
    show(
        f"{items:,} items, V {CODES}",
        ["figure", *results],
        [[figure, *(f"{found[figure]:,.2f}" for found in results.values())] for figure in figures],
    )
    finish("item_index", results, started=started, path=given.json)


def _random(items: int) -> npt.NDArray[np.int16]:
    return np.random.default_rng(0).integers(0, CODES, (items, 3), dtype=np.int16)


def _clustered(items: int) -> npt.NDArray[np.int16]:
    rng = np.random.default_rng(0)
    prefixes = rng.integers(0, CODES, (items // 5, 2), dtype=np.int16)
    last = rng.integers(0, CODES, (items, 1), dtype=np.int16)
    return np.concatenate([prefixes[rng.integers(0, len(prefixes), items)], last], axis=1)


CATALOGUES: dict[str, Callable[[int], npt.NDArray[np.int16]]] = {
    "random": _random,
    "clustered": _clustered,
}


def _measure(codes: npt.NDArray[np.int16]) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    items = len(codes)
    began = time.perf_counter()
    index = ItemIndex.build(
        keys=torch.arange(items),
        codes=torch.from_numpy(codes),
        content=torch.zeros(items, 0, dtype=torch.float16),
    )
    build_s = time.perf_counter() - began
    keys = torch.from_numpy(rng.choice(items, TOGGLES, replace=False))
    excluded = torch.from_numpy(rng.choice(items, (1, EXCLUDED), replace=False))
    one = torch.zeros(1, dtype=torch.int64)
    there = cycle([torch.zeros(TOGGLES, dtype=torch.bool), torch.ones(TOGGLES, dtype=torch.bool)])
    leaf = index.levels[-1]
    leaves = len(leaf.codes)
    young = _grow(index, 1)
    structure = sum(level.codes.nbytes for level in index.levels)
    structure += sum(level.first_child.nbytes for level in index.levels[:-1])
    beside = index.leaf_N.nbytes + sum(counts.nbytes for counts in index.counts)
    return {
        "SIDs": leaves,
        "structure, bytes a SID": structure / leaves,
        "leaves of items and counts, bytes a SID": beside / leaves,
        "items in SID order, bytes an item": 1.0 * leaf.labels.nbytes / items,
        "build, s": build_s,
        "first new item, ms": _ms(lambda: _grow(index, 1), repeats=1),
        "one new item, ms": _ms(lambda: _grow(young, 1)),
        "1,000 new items, ms": _ms(lambda: _grow(young, 1_000)),
        "1,000 stock changes, ms": _ms(lambda: index.set_eligible(keys, next(there))),
        "masks of a request with 100 exclusions, ms": _ms(lambda: index.masks(one, excluded)),
    }


def _grow(index: ItemIndex, count: int) -> ItemIndex:
    rng = np.random.default_rng(count)
    return index.grown(
        keys=len(index.keys_N) + torch.arange(count),
        codes=torch.from_numpy(rng.integers(0, CODES, (count, index.depth), dtype=np.int16)),
        content=torch.zeros(count, 0, dtype=torch.float16),
        in_stock=torch.ones(count, dtype=torch.bool),
        scenarios=torch.ones(1, count, dtype=torch.bool),
    )


def _ms(act: Callable[[], object], repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        act()
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


if __name__ == "__main__":
    main()
