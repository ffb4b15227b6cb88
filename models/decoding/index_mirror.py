"""An item index on a device: the arrays that a search reads stand there, look-ups by key do not.

The index stays on the host, where keys are looked up, stock is counted and a request's exclusions
are listed. Its mirror follows: a change of stock is copied node by node, in place, so that whatever
was captured with the mirror's arrays (a CUDA graph) goes on with them; further items send the
structure anew and append rows. On the CPU the mirror is the index itself and costs nothing.

B requests, E excluded items of one, P nodes of a level, L levels, N items, W beams,
K children of a node (padded) or scenarios, X any number.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from subprocess import SubprocessError
from typing import Self

import numpy as np
import torch

from models.decoding.growing_rows import GrowingRows
from models.decoding.item_index import UNKNOWN, ItemIndex
from models.decoding.levels import Level
from models.decoding.masks import END, Masks, listed
from models.devices import moved

logger = logging.getLogger(__name__)


@cache
def closing_kernel() -> Callable[..., None] | None:
    """Returns `close_children`, which one node tries out, or None where it cannot be compiled: that
    takes Triton (it comes with a torch for CUDA) and a C compiler with Python's headers.
    """
    try:
        from triton.errors import TritonError
    except ImportError:
        return None
    try:
        from models.decoding.closing_kernel import close_children

        node = torch.zeros(1, dtype=torch.int64, device="cuda")
        closed = node.bool().unsqueeze(0)
        close_children(node.float().view(1, 1, 1), None, closed, node, node + END)
    except torch.cuda.OutOfMemoryError:
        raise
    except (TritonError, RuntimeError, OSError, SubprocessError, AssertionError) as error:
        logger.warning("PyTorch's operators close nodes, no kernel does: %s", error)
        return None
    return close_children


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedMasks(Masks):
    """Masks whose lists may end in more than one `END`: their shapes tell nothing of a request.

    `closed` bool [K, P] a level stand for the counts, which a device has not: no eligible item
    below. At beam 512 a level has up to 650,000 children a request: a card closes them with a
    kernel of their own.
    """

    closed: Sequence[torch.Tensor]

    def empty_roots(self) -> torch.Tensor:
        """Returns whether no eligible item stands below each first code, bool [B, P]."""
        roots_P = torch.arange(self.closed[0].shape[1], device=self.scenario_B.device)
        return self.empty(0, roots_P.expand(len(self.scenario_B), -1))

    def empty(self, level: int, nodes_BX: torch.Tensor) -> torch.Tensor:
        """Returns whether no eligible item stands below nodes of `level`, bool [B, X]."""
        closed_KP = self.closed[level]
        empty_BX = closed_KP[self.scenario_B.unsqueeze(1), nodes_BX]
        if (emptied := self.emptied[level]) is not None:
            empty_BX |= listed(emptied, nodes_BX, closed_KP.shape[1])
        return empty_BX

    def close_roots(self, logprobs_BP: torch.Tensor) -> torch.Tensor:
        """Returns the scores of all first codes, -inf for those that may not be taken."""
        scores_BP = logprobs_BP.clone()  # the kernel closes in place
        if self._closed_by_kernel(0, scores_BP.unsqueeze(1), None):
            return scores_BP
        return Masks.close_roots(self, logprobs_BP)

    def close(self, level: int, scores_BWK: torch.Tensor, nodes_BWK: torch.Tensor) -> torch.Tensor:
        """Makes the scores of nodes that may not be taken -inf, in place, and returns them."""
        if self._closed_by_kernel(level, scores_BWK, nodes_BWK):
            return scores_BWK
        return Masks.close(self, level, scores_BWK, nodes_BWK)

    def _closed_by_kernel(
        self, level: int, scores_BWK: torch.Tensor, nodes_BWK: torch.Tensor | None
    ) -> bool:
        if not scores_BWK.is_cuda or (close_children := closing_kernel()) is None:
            return False
        emptied = self.emptied[level]
        assert emptied is not None  # padded lists are never left out
        close_children(scores_BWK, nodes_BWK, self.closed[level], self.scenario_B, emptied)
        return True


@dataclass(frozen=True, slots=True)
class IndexMirror:
    """`host`: the index; `index`: the same on the device, but for the counts. `closed` bool [K, P]
    a level: nodes without an eligible item. Only `follow` changes them.
    """

    host: ItemIndex
    index: ItemIndex
    closed: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(cls, host: ItemIndex, device: torch.device) -> Self:
        """Returns the mirror of an index."""
        return cls(host, host) if device.type == "cpu" else cls.copied(host, device)

    @classmethod
    def copied(cls, host: ItemIndex, device: torch.device) -> Self:
        """Returns a mirror that is a copy, whatever the device."""
        rows = (host.keys_N, host.codes_NL, host.content_NC)
        keys, codes, content = (GrowingRows.of(_copied(own, device)) for own in rows)
        index = replace(host, keys=keys, codes=codes, content=content)
        return cls(host, _with_structure(index, host, device), _closed(host, device))

    @property
    def device(self) -> torch.device:
        """Where the arrays stand."""
        return self.index.codes_NL.device

    def masks(
        self, scenario_B: torch.Tensor, excluded_BE: torch.Tensor, room: int | None = None
    ) -> Masks:
        """Returns the host's masks with everything that a search reads on the device.

        With `room` (at least B * E) every list has that many entries: shapes depend on nothing.
        """
        own = self.host.masks(scenario_B, excluded_BE)
        if self.index is self.host:
            return own
        lists = self.padded(own, excluded_BE.numel() if room is None else room)
        return self.masks_from(scenario_B.to(self.device), lists.to(self.device))

    def masks_from(self, scenario_B: torch.Tensor, lists_AE: torch.Tensor) -> Masks:
        """Returns masks of tensors on the device: the lists of `padded`."""
        *emptied, excluded = lists_AE.unbind(0)
        return PaddedMasks(
            scenario_B=scenario_B,
            counts=self.host.counts,
            closed=self.closed,
            in_stock_N=self.index.in_stock_N,
            scenarios_KN=self.index.scenarios_KN,
            emptied=emptied,
            excluded=excluded,
        )

    def padded(self, masks: Masks, room: int) -> torch.Tensor:
        """Returns the lists of the levels' emptied nodes and of the excluded rows, each closed and
        padded with `END`, int64 [L + 1, room + 1]: one copy to a device instead of L + 2.
        """
        found: Sequence[torch.Tensor | None] = [*masks.emptied, masks.excluded]
        lists = np.full((len(found), room + 1), END, dtype=np.int64)
        for row, own in zip(lists, found, strict=True):
            if own is not None:
                row[: len(own)] = own.numpy()
        return torch.from_numpy(lists)

    @torch.inference_mode()  # arrays made by `grown` while decoding may be inference tensors
    def follow(self, keys: torch.Tensor) -> None:
        """Copies what the host now holds of items `keys` [X] and of the nodes above them, in place.

        O(L) an item; unknown keys change nothing. Nobody may decode meanwhile.
        """
        if self.index is self.host:
            return
        rows_X = self.host.rows_of(keys)
        rows_X = rows_X[rows_X != UNKNOWN]
        if not len(rows_X):
            return
        _copy_columns(self.host.in_stock_N, self.index.in_stock_N, rows_X)
        _copy_columns(self.host.scenarios_KN, self.index.scenarios_KN, rows_X)
        nodes_X = self.host.leaf_N[rows_X.numpy()]
        for number in reversed(range(self.host.depth)):
            if number < self.host.depth - 1:
                nodes_X = self.host.levels[number].parents(nodes_X)
            places_X = torch.from_numpy(nodes_X.astype(np.int64))
            closed_KX = self.host.counts[number][:, places_X] == 0
            self.closed[number][:, places_X.to(self.device)] = closed_KX.to(self.device)

    def grown(self, host: ItemIndex) -> Self:
        """Returns the mirror of `host`, which is this one's index grown by further items."""
        if self.index is self.host:
            return type(self)(host, host)
        device, known = self.device, len(self.host.keys_N)
        index = replace(
            host,
            keys=self.index.keys.appended(host.keys_N[known:].to(device)),
            codes=self.index.codes.appended(host.codes_NL[known:].to(device)),
            content=self.index.content.appended(host.content_NC[known:].to(device)),
        )
        return type(self)(host, _with_structure(index, host, device), _closed(host, device))


def _with_structure(index: ItemIndex, host: ItemIndex, device: torch.device) -> ItemIndex:
    """Returns `index` with copies of the host's structure and stock on the device."""
    levels: list[Level] = [moved(level, device) for level in host.levels]
    return replace(
        index,
        levels=tuple(levels),
        in_stock_N=_copied(host.in_stock_N, device),
        scenarios_KN=_copied(host.scenarios_KN, device),
    )


def _closed(host: ItemIndex, device: torch.device) -> tuple[torch.Tensor, ...]:
    return tuple((counts_KP == 0).to(device) for counts_KP in host.counts)


def _copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.to(device, copy=True)


def _copy_columns(source: torch.Tensor, target: torch.Tensor, places_X: torch.Tensor) -> None:
    """Copies the entries at `places_X` of the last axis; a place that stands twice is written
    twice, with one value.
    """
    target[..., places_X.to(target.device)] = source[..., places_X].to(target.device)
