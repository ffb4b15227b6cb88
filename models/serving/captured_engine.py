"""The engine with its decoding captured as CUDA graphs: one launch a batch instead of thousands.

A search has fixed depth, children padded to a level's degree and lists of exclusions padded with
their end, so for one shape (requests, history, beams, exclusions) everything from collated tensors
to ranked rows is one graph. Histories and lists are padded to steps, so that few shapes come up.
Stock changes the captured arrays in place; further items are other arrays, and captured again.

Where it cannot be, the engine's own way is taken: on the CPU, with a table of neighbours (asked on
the host), with mixtures whose tokens are sorted by expert (the device is asked for counts).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import torch
from torch.nn import functional as F

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.devices import moved
from models.generator.batch import Batch
from models.generator.experts import sorts_tokens
from models.serving.engine import Chosen, GeneratorEngine, best_items
from models.serving.live_catalogue import Catalogue
from models.serving.policy_directory import LoadedPolicy

T = TypeVar("T")

HISTORY_STEP = 40  # positions: 1,000 are 25 widths
ROOM_STEP = 64
MOST_GRAPHS = 64  # of one catalogue: each keeps its intermediate tensors, some MB to 100s of MB
WARM_UP = 2  # runs before a capture: workspaces and plans are made by then


class Shape(NamedTuple):
    """What a graph is captured for: requests, history positions, beams, entries of a list."""

    requests: int
    history: int
    beams: int
    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A graph, the tensors it reads and those it writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    lists_AE: torch.Tensor
    chosen: Chosen

    def replay(self, batch: Batch, lists_AE: torch.Tensor) -> Chosen:
        """Returns what is chosen for a batch of the captured shape, valid until the next replay."""
        for field in fields(batch):
            getattr(self.batch, field.name).copy_(getattr(batch, field.name), non_blocking=True)
        self.lists_AE.copy_(lists_AE, non_blocking=True)
        self.graph.replay()
        return self.chosen


class CapturedEngine(GeneratorEngine):
    """A `GeneratorEngine` with the same answers; the first batch of a shape takes a moment more."""

    def __init__(
        self, policy: LoadedPolicy, count_unknown: Callable[[int], None] = lambda _: None
    ) -> None:
        """As the engine. A policy on the CPU is decoded as there."""
        super().__init__(policy, count_unknown)
        on_card = policy.generator.device.type == "cuda"
        self.captures = on_card and policy.neighbours is None and not sorts_tokens(policy.generator)
        self.graphs: dict[Shape, Captured] = {}  # of the catalogue in use
        self._of: ItemIndex | None = None

    def _chosen(
        self, batch: Batch, excluded_BE: torch.Tensor, now: Catalogue, beams: int
    ) -> Chosen:
        if not self.captures:
            return super()._chosen(batch, excluded_BE, now, beams)
        if self._of is not now.mirror.index:
            self.graphs.clear()
            self._of = now.mirror.index
        history = padded_to(batch.rows_BS.shape[1], HISTORY_STEP)
        shape = Shape(len(batch), history, beams, padded_to(excluded_BE.numel(), ROOM_STEP))
        batch = widened(batch, history)
        own = now.mirror.host.masks(batch.scenario_B, excluded_BE)
        lists_AE = now.mirror.padded(own, shape.room)
        if shape not in self.graphs:
            if len(self.graphs) == MOST_GRAPHS:
                self.graphs.clear()
            self.graphs[shape] = self._captured(now, batch, lists_AE, beams)
        return self.graphs[shape].replay(batch, lists_AE)

    def _captured(
        self, now: Catalogue, batch: Batch, lists_AE: torch.Tensor, beams: int
    ) -> Captured:
        device = now.mirror.device
        there, lists_AE = moved(batch, device), lists_AE.to(device)

        def decoded() -> Chosen:
            masks = now.mirror.masks_from(there.scenario_B, lists_AE)
            found, ranked = self._ranked(now, there, masks, beams)
            terms_BX = torch.zeros_like(ranked.logprobs_BWI.flatten(1))
            return best_items(found, ranked, terms_BX, beams)

        graph, chosen = graph_of(decoded)
        return Captured(graph=graph, batch=there, lists_AE=lists_AE, chosen=chosen)


def graph_of(call: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """Returns a call that never waits for the card as a graph, and its result, which each replay
    writes anew.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def widened(batch: Batch, history: int) -> Batch:
    """Returns the batch with its histories padded to `history` positions."""
    missing = (0, history - batch.rows_BS.shape[1])
    return replace(
        batch,
        rows_BS=F.pad(batch.rows_BS, missing, value=UNKNOWN),
        actions_BS=F.pad(batch.actions_BS, missing),
        gaps_BS=F.pad(batch.gaps_BS, missing),
    )


def padded_to(count: int, step: int) -> int:
    """Returns the smallest multiple of `step`, at least one, that is not below `count`."""
    return max(1, -(-count // step)) * step
