"""What the constraints cost in a search on a card, for `decoding_gpu`.

The same search with and without mask operations, in turn, eagerly and as two CUDA graphs: medians
of the paired differences. What a batch's masks cost on the host, before, stands beside it.
"""

import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.decoding_gpu_requests import BEAMS, CODES, HISTORY, event_ms
from benchmarks.decoding_world import EXCLUDED, IN_STOCK, SCENARIOS
from models.decoding.beam_search import SearchResult
from models.decoding.index_mirror import IndexMirror, PaddedMasks
from models.decoding.item_index import UNKNOWN, ItemIndex
from models.devices import moved
from models.generator.batch import Batch
from models.generator.config import PRESETS
from models.generator.generator import Generator
from models.generator.precision import in_bf16
from models.serving.captured_engine import graph_of

PRESET = "0.1B"
BATCH = 8
CONTENT_DIM = 4  # texts have no part in a step
ROUNDS, QUICK_ROUNDS = 100, 10
ALL, NONE = "all masks", "no mask operation"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlyAt(PaddedMasks):
    """Masks that close nodes of the levels `at` alone, 0 being the roots'."""

    at: tuple[int, ...]

    def close_roots(self, logprobs_BP: torch.Tensor) -> torch.Tensor:
        """Returns scores, masked where the roots are among the levels."""
        return PaddedMasks.close_roots(self, logprobs_BP) if 0 in self.at else logprobs_BP

    def close(self, level: int, scores_BWK: torch.Tensor, nodes_BWK: torch.Tensor) -> torch.Tensor:
        """Returns scores, masked where the level is among the levels."""
        if level not in self.at:
            return scores_BWK
        return PaddedMasks.close(self, level, scores_BWK, nodes_BWK)


@torch.inference_mode()
def shares(sids: int, *, quick: bool = False) -> dict[str, Any]:
    """Returns times of the search with all, no and single levels' masks, and their differences."""
    began = time.monotonic()
    mirror = IndexMirror.copied(_index(sids), torch.device("cuda"))
    built_s = time.monotonic() - began
    torch.manual_seed(0)
    config = replace(PRESETS[PRESET], codes=CODES, content_dim=CONTENT_DIM)
    generator = in_bf16(Generator(config).eval().cuda())
    batch, excluded_BE = _batch(mirror.host)
    decoding = generator.begin(moved(batch, mirror.device), mirror.index)
    masks = mirror.masks(batch.scenario_B, excluded_BE)
    levels = tuple(range(config.levels))
    at = {ALL: levels, NONE: (), **{f"without level {n}": _without(levels, n) for n in levels}}

    def search(closed: tuple[int, ...]) -> SearchResult:
        own = {field.name: getattr(masks, field.name) for field in fields(PaddedMasks)}
        some = OnlyAt(at=closed, **own)
        return generator.search(copy(decoding), mirror.index, some, BEAMS)

    eager = {name: partial(search, closed) for name, closed in at.items()}
    live = search(levels).live_BW
    rounds = QUICK_ROUNDS if quick else ROUNDS
    found = {"eager": _differences(eager, rounds)}
    found["graph"] = _differences({name: _graph(call) for name, call in eager.items()}, rounds)
    distinct = len(mirror.index.levels[-1].codes)
    return {
        **found,
        "title": f"{PRESET} in bf16, batch {BATCH}, beam {BEAMS}, {distinct:,} SIDs, V {CODES}",
        "host_ms": _host_ms(mirror, batch, excluded_BE),
        "returned": int(live.sum()),
        "wanted": BATCH * BEAMS,
        "degrees": [len(level.steps_K) for level in mirror.host.levels],
        "built_s": built_s,
        "rounds": rounds,
    }


def _without(levels: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(level for level in levels if level != number)


def _differences(
    calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, dict[str, float]]:
    """Returns by name the median time, and by how much all masks take longer."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 3):
        for name, call in calls.items():
            took_ms = event_ms(call)
            if number >= 3:
                times[name].append(took_ms)
    whole_ms = median(times[ALL])
    found = {}
    for name, own in times.items():
        less_ms = median(a - b for a, b in zip(times[ALL], own, strict=True))
        found[name] = {"ms": median(own), "less_ms": less_ms, "share": less_ms / whole_ms}
    return found


def _graph(call: Callable[[], object]) -> Callable[[], object]:
    """Returns the replay of a captured call."""
    graph, kept = graph_of(call)

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def _host_ms(mirror: IndexMirror, batch: Batch, excluded_BE: torch.Tensor) -> float:
    times = []
    for _ in range(30):
        torch.cuda.synchronize()
        began = time.perf_counter()
        mirror.masks(batch.scenario_B, excluded_BE)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


def _index(sids: int) -> ItemIndex:
    rng = np.random.default_rng(0)
    return ItemIndex.build(
        keys=torch.arange(sids),
        codes=torch.from_numpy(rng.integers(0, CODES, (sids, 3), dtype=np.int16)),
        content=torch.from_numpy(rng.standard_normal((sids, CONTENT_DIM), dtype=np.float32)),
        in_stock=torch.from_numpy(rng.random(sids) < IN_STOCK),
        scenarios=torch.ones(len(SCENARIOS), sids, dtype=torch.bool),
    )


def _batch(index: ItemIndex) -> tuple[Batch, torch.Tensor]:
    """Returns random histories with instructions, and the keys not to show."""
    rng = np.random.default_rng(1)
    shape = (BATCH, HISTORY)
    told = rng.standard_normal((BATCH, CONTENT_DIM)) / CONTENT_DIM**0.5
    batch = Batch(
        rows_BS=torch.from_numpy(rng.integers(0, len(index.keys_N), shape)),
        actions_BS=torch.from_numpy(rng.integers(0, 9, shape)),
        gaps_BS=torch.from_numpy(rng.integers(0, 32, shape)),
        scenario_B=torch.from_numpy(rng.integers(0, len(SCENARIOS), BATCH)),
        trigger_B=torch.full((BATCH,), UNKNOWN),
        instruction_BC=torch.from_numpy(told.astype(np.float32)),
        has_instruction_B=torch.ones(BATCH, dtype=torch.bool),
    )
    return batch, torch.from_numpy(rng.integers(0, len(index.keys_N), (BATCH, EXCLUDED)))
