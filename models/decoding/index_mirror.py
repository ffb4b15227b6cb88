"""An item index on a device: the arrays that a search reads stand there, look-ups by key do not.

The index stays on the host, where keys are looked up, stock is counted and a request's exclusions
are listed. Its mirror follows: a change of stock is copied node by node, in place, so that whatever
was captured with the mirror's arrays (a CUDA graph) goes on with them; further items send the
structure anew and append rows. On the CPU the mirror is the index itself and costs nothing.

B requests, E excluded items of one, P nodes of a level, L levels, N items, X any number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from models.decoding.growing_rows import GrowingRows
from models.decoding.item_index import UNKNOWN, ItemIndex
from models.decoding.levels import Level
from models.decoding.masks import END, Masks, listed
from models.devices import moved

# Of all requests. On an H200 looking each child up in the list took 0.02-0.03 ms, for 12,000 and
# for 660,000; the way through the parents 0.08, for 20,000 and for 5 million: twenty launches.
FEW_CHILDREN = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedMasks(Masks):
    """Masks whose lists may end in more than one `END`: their shapes tell nothing of a request.

    `closed` bool [K, P] a level stand for the counts, which a device has not: no eligible item
    below. `levels` are the index's there. At beam 512 a level has up to 650,000 children a request:
    then each is looked up once, and the few emptied ones are looked for among the beams' parents.
    """

    closed: Sequence[torch.Tensor]
    levels: Sequence[Level]

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
        scores_BP = logprobs_BP.masked_fill(self.closed[0][self.scenario_B], -torch.inf)
        if (emptied_E := self.emptied[0]) is not None:
            # An END adds nothing to the first score.
            there_E = emptied_E < scores_BP.numel()
            scores_BP.view(-1).index_add_(0, emptied_E.where(there_E, 0), _minus_inf(there_E))
        return scores_BP

    def close(self, level: int, scores_BX: torch.Tensor, nodes_BX: torch.Tensor) -> torch.Tensor:
        """Makes the scores of the nodes that may not be taken -inf, in place, and returns them.

        `nodes_BX` are the padded children of beams, as `Level.children` gives them.
        """
        if nodes_BX.numel() <= FEW_CHILDREN:
            return scores_BX.masked_fill_(self.empty(level, nodes_BX), -torch.inf)
        closed_BX = self.closed[level][self.scenario_B.unsqueeze(1), nodes_BX]
        scores_BX.masked_fill_(closed_BX, -torch.inf)
        if (emptied_E := self.emptied[level]) is not None:
            self._close_emptied(level, scores_BX, nodes_BX, emptied_E)
        return scores_BX

    def _close_emptied(
        self,
        level: int,
        scores_BX: torch.Tensor,
        nodes_BX: torch.Tensor,
        emptied_E: torch.Tensor,
    ) -> None:
        """Adds -inf to the scores of emptied nodes below a beam: their parents are looked for among
        the request's beams, which are known by their first children.
        """
        above, size = self.levels[level - 1], self.closed[level].shape[1]
        degree = len(above.steps_K)
        request_E = (emptied_E // size).clamp(max=len(scores_BX) - 1)
        node_E = emptied_E % size
        parent_E = torch.searchsorted(above.first_child, node_E.int(), right=True) - 1
        first_E = above.first_child[parent_E].long()
        first_BW = nodes_BX.view(len(nodes_BX), -1, degree)[:, :, 0]
        is_it_EW = first_BW[request_E] == first_E.unsqueeze(1)
        there_E = is_it_EW.any(dim=1) & (emptied_E < len(scores_BX) * size)
        place_E = is_it_EW.int().argmax(dim=1) * degree + node_E - first_E
        flat_E = (request_E * scores_BX.shape[1] + place_E).where(there_E, 0)
        scores_BX.view(-1).index_add_(0, flat_E, _minus_inf(there_E))


def _minus_inf(there_E: torch.Tensor) -> torch.Tensor:
    """Returns what is added to a score: -inf where something is, else 0."""
    return torch.zeros(there_E.shape, device=there_E.device).masked_fill_(there_E, -torch.inf)


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
            levels=self.index.levels,
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
