"""Ours on a card against transformers `generate` there, for `decoding_gpu`: requests to SIDs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from benchmarks.decoding import exactness, task_of
from benchmarks.decoding_gpu_requests import CODES, HISTORY
from benchmarks.decoding_transformers import TransformersWay, version
from benchmarks.decoding_ways import Sid, Task, Way, kept_by_width, ours, trie_of
from benchmarks.decoding_world import Setting, policy_of
from models.decoding.beam_search import SearchResult
from models.decoding.index_mirror import IndexMirror
from models.decoding.legal import ScoreSemantics
from models.decoding.masks import Masks
from models.devices import moved
from models.generator.precision import in_bf16
from models.serving.captured_engine import graph_of

WIDTHS = (20, 50, 512)
WIDEST_OTHER = 50  # of `generate`: its trie is asked once a beam and code
IN_BF16 = "0.1B"  # the others are compared in float32, as on the CPU
ROUNDS, QUICK_ROUNDS = 30, 3
EAGER, GRAPH, HUGGING_FACE = "ours, eager", "ours, CUDA graph", "transformers generate"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardTask(Task):
    """A task whose policy, batch and vectors are on a card."""

    mirror: IndexMirror
    scenario_B: torch.Tensor

    def masks(self) -> Masks:
        """Returns what the request may be given, made on the host."""
        return self.mirror.masks(self.scenario_B, self.excluded_BE)


def ways_figures(size: str, items: int, *, quick: bool = False) -> dict[str, dict[str, Any]]:
    """Returns time and exactness by way and width; one request, one size."""
    setting = Setting(items=items, codes=CODES, history=HISTORY, size=size)
    host = policy_of(setting)
    structure = trie_of([tuple(sid) for sid in host.index.sids.tolist()])
    with torch.inference_mode():
        first = task_of(host, setting, WIDTHS[0], seed=0)
        generator = in_bf16(host.generator) if size == IN_BF16 else host.generator
        mirror = IndexMirror.of(host.index, generator.cuda().device)
        task, live = _on_card(first, mirror), trie_of(first.live)
        other = TransformersWay(task) if version() else None
        found: dict[str, dict[str, Any]] = {}
        for beams in WIDTHS:
            own = replace(task, beams=beams)
            legal = kept_by_width(own, ScoreSemantics.LEGAL, structure, live)
            rows = _measured(own, legal, other, QUICK_ROUNDS if quick else ROUNDS)
            found |= {f"{name}, beam {beams}": row for name, row in rows.items()}
    torch.cuda.empty_cache()
    return found


def _measured(
    task: CardTask, legal: list[Sid], other: TransformersWay | None, rounds: int
) -> dict[str, dict[str, Any]]:
    ways = {EAGER: ours(task, ScoreSemantics.LEGAL), GRAPH: _graph(task)}
    references = {EAGER: legal, GRAPH: legal}
    if other is not None and task.beams <= WIDEST_OTHER:
        other.beams = task.beams
        ways[HUGGING_FACE] = other.way()
        references[HUGGING_FACE] = other.kept_by_width()
    times = _timed(ways, rounds)
    return {
        name: {
            "ms": times[name],
            "times_graph": times[name] / times[GRAPH],
            **exactness([task], [way()], [references[name]]),
        }
        for name, way in ways.items()
    }


def _on_card(task: Task, mirror: IndexMirror) -> CardTask:
    generator, device = task.policy.generator, mirror.device
    return CardTask(
        policy=replace(task.policy, index=mirror.index),
        batch=moved(task.batch, device),
        excluded_BE=task.excluded_BE,
        beams=task.beams,
        vectors_ND=task.vectors_ND.to(device, generator.items.codes.weight.dtype),
        live=task.live,
        mirror=mirror,
        scenario_B=task.batch.scenario_B,
    )


def _graph(task: CardTask) -> Way:
    """Returns encoding and search as one graph; masks are made on the host and copied into it."""
    index, sids_SL = task.policy.index, task.policy.index.sids
    scenario_B = task.batch.scenario_B
    room = task.excluded_BE.numel()
    host = task.mirror.host
    lists_AE = task.mirror.padded(host.masks(task.scenario_B, task.excluded_BE), room)
    there_AE = lists_AE.to(task.mirror.device)

    def search() -> SearchResult:
        masks = task.mirror.masks_from(scenario_B, there_AE)
        return task.policy.generator.search(task.begin(), index, masks, task.beams)

    graph, found = graph_of(search)

    def run() -> list[Sid]:
        own = host.masks(task.scenario_B, task.excluded_BE)
        there_AE.copy_(task.mirror.padded(own, room))
        graph.replay()
        leaves_W = found.leaves_BW[0][found.live_BW[0]]
        return [tuple(sid) for sid in sids_SL[leaves_W].tolist()]

    return run


def _timed(ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """Returns the median ms by way, in turn; results are in hand when the clock stops."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number >= 2:
                times[name].append((time.perf_counter() - began) * 1e3)
    return {name: median(found) for name, found in times.items()}
