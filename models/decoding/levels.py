"""The prefixes of all semantic IDs, level by level (CSR with implicit children), and how further
ones are put between them.

A node's id is its place among the sorted prefixes of its length. Further items do not sort the
catalogue again: where each stands is looked up, and every array is copied once with the new
entries between the old.

P_l distinct prefixes of length l + 1, L levels, N items, X further items or any shape, K scenarios
or (padded) children.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

# Padded children of every node are looked up, not made, while they stay small (17 MiB a level): a
# step's ten calls become three. Above it 8 bytes a SID matter more than 30 us.
TABLE_ENTRIES = 1 << 20

Places = npt.NDArray[np.int64]


class Children(NamedTuple):
    """Children of some nodes, padded to the level's largest degree, all [..., K]: places in the
    next level, int64, and what stands there (codes, or rows of items, int64); which are padding: it
    repeats the last child.
    """

    nodes_XK: torch.Tensor
    labels_XK: torch.Tensor
    padding_XK: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """`codes` int16 [P_l]; the children of node i are [first_child[i], first_child[i + 1]), int32
    [P_l + 1].

    `labels` are what stands below, in order: the next level's codes, int16, or the items' rows
    behind the last level, int32. `steps_K` = 0, 1, .. up to the largest degree: known once a
    version, so that no request asks for it. `table`: the children of all nodes, if they are few.
    """

    codes: torch.Tensor
    first_child: torch.Tensor
    labels: torch.Tensor
    steps_K: torch.Tensor
    table: Children | None = None

    @classmethod
    def of(cls, codes: torch.Tensor, first_child: torch.Tensor, labels: torch.Tensor) -> Self:
        """Returns the level, with the table of its children where that is small enough."""
        steps_K = torch.arange(int(first_child.diff().max()))
        level = cls(codes=codes, first_child=first_child, labels=labels, steps_K=steps_K)
        if len(codes) * len(steps_K) > TABLE_ENTRIES:
            return level
        return replace(level, table=level.children(torch.arange(len(codes))))

    def children(self, parents: torch.Tensor) -> Children:
        """Returns the children of nodes [...] of this level."""
        flat_X = parents.flatten()  # `index_select` takes two thirds of an index's time
        shape = (*parents.shape, len(self.steps_K))
        if self.table is not None:
            return Children(*(column.index_select(0, flat_X).view(shape) for column in self.table))
        edges_X2 = self.first_child.unfold(0, 2, 1).index_select(0, flat_X).long()
        end_X1 = edges_X2[:, 1:]
        nodes_XK = edges_X2[:, :1] + self.steps_K
        padding_XK = nodes_XK >= end_X1
        nodes_XK = torch.minimum(nodes_XK, end_X1 - 1)
        labels_X = self.labels.index_select(0, nodes_XK.flatten()).long()
        return Children(nodes_XK.view(shape), labels_X.view(shape), padding_XK.view(shape))

    def parents(self, children_X: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Returns the nodes of this level above nodes of the next. int32, as the edges are: of
        another type NumPy would copy all edges first.
        """
        places_X = self.first_child.numpy().searchsorted(children_X, side="right") - 1
        return places_X.astype(np.int32)


def build_levels(codes_NL: torch.Tensor) -> tuple[Level, ...]:
    """Returns the levels of all items; those of one SID stand by row."""
    order_N = torch.arange(len(codes_NL))
    for level in reversed(range(codes_NL.shape[1])):  # least significant first, each pass stable
        order_N = order_N[codes_NL[order_N, level].sort(stable=True).indices]
    ordered_NL = codes_NL[order_N]
    starts: list[torch.Tensor] = []
    new_N = torch.zeros(len(codes_NL), dtype=torch.bool)
    new_N[0] = True
    for level in range(codes_NL.shape[1]):
        new_N = new_N.clone()
        new_N[1:] |= ordered_NL[1:, level] != ordered_NL[:-1, level]
        starts.append(new_N.nonzero().squeeze(1))
    starts.append(torch.arange(len(codes_NL)))  # the children of a leaf are its items
    codes = [ordered_NL[own, level] for level, own in enumerate(starts[:-1])]
    labels = [*codes[1:], order_N.int()]
    levels = []
    for level, (own, below) in enumerate(pairwise(starts)):
        edges = torch.cat([own, torch.tensor([len(codes_NL)])])
        first_child = torch.searchsorted(below, edges).to(torch.int32)
        levels.append(Level.of(codes[level], first_child, labels[level]))
    return tuple(levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """Where nodes of one axis (a level, or the items) are put between the old ones.

    `before_A`: the old place that each of A new nodes is put before, rising; `nodes_X`: the new
    place of each further item's prefix, whether it is new or was there.
    """

    before_A: Places
    nodes_X: Places

    def put(self, old: npt.NDArray[Any], new: npt.ArrayLike) -> npt.NDArray[Any]:
        """Returns `old` [..., P] with `new` (one for all, or [A]) between, [..., P + A]."""
        put = np.empty((*old.shape[:-1], old.shape[-1] + len(self.before_A)), dtype=old.dtype)
        put[..., self.before_A + np.arange(len(self.before_A))] = new
        cuts = [0, *self.before_A.tolist(), old.shape[-1]]
        for shift, (start, stop) in enumerate(pairwise(cuts)):  # whole pieces: a mask is slower
            put[..., start + shift : stop + shift] = old[..., start:stop]
        return put

    def moved(self, size: int) -> npt.NDArray[np.int32]:
        """Returns where each of `size` old nodes stands now."""
        marks = np.bincount(self.before_A, minlength=size)[:size].astype(np.int32)
        place_P: npt.NDArray[np.int32] = np.arange(size, dtype=np.int32)
        place_P += marks.cumsum(dtype=np.int32)
        return place_P


def insertions(
    levels: Sequence[Level], codes_XL: npt.NDArray[np.int16], keys_X: Places, keys_N: Places
) -> list[Insertion]:
    """Returns where further items stand, an `Insertion` a level and one for the items.

    The items are sorted by (SID, key), and none of `keys_X` is in `keys_N` (by row).
    """
    count = len(keys_X)
    low_X, high_X = np.zeros(count, np.int64), np.full(count, len(levels[0].codes))
    differs_X = np.zeros(count, bool)
    differs_X[0] = True
    found = []
    for level, codes_X in zip(levels, codes_XL.T, strict=True):
        codes_P, edges = level.codes.numpy(), level.first_child.numpy()
        place_X = _lower_bounds(codes_P, low_X, high_X, codes_X)
        # A code at the end of all has no place to be compared with.
        known_X = (place_X < high_X) & (codes_P[place_X.clip(max=len(codes_P) - 1)] == codes_X)
        differs_X = differs_X | np.append(True, codes_X[1:] != codes_X[:-1])
        fresh_X = ~known_X & differs_X
        nodes_X = place_X + fresh_X.cumsum() - ~known_X
        found.append(Insertion(before_A=place_X[fresh_X], nodes_X=nodes_X))
        low_X = edges[place_X].astype(np.int64)
        high_X = np.where(known_X, edges[np.minimum(place_X + 1, len(codes_P))], low_X)
    keys_in_order = _Looked(keys_N, levels[-1].labels.numpy())
    place_X = _lower_bounds(keys_in_order, low_X, high_X, keys_X)
    found.append(Insertion(before_A=place_X, nodes_X=place_X + np.arange(count)))
    return found


def grown_levels(
    levels: Sequence[Level],
    inserted: Sequence[Insertion],
    codes_XL: npt.NDArray[np.int16],
    rows_X: Places,
) -> tuple[Level, ...]:
    """Returns the levels with further items in the order of (SID, key)."""
    codes: list[npt.NDArray[Any]] = []
    for level, own, codes_X in zip(levels, inserted, codes_XL.T, strict=False):
        codes.append(own.put(level.codes.numpy(), codes_X[_first_of(own)]))
    codes.append(inserted[-1].put(levels[-1].labels.numpy(), rows_X))
    grown = []
    for number, (level, (own, below)) in enumerate(zip(levels, pairwise(inserted), strict=True)):
        degrees = own.put(np.diff(level.first_child.numpy()), 0)
        np.add.at(degrees, own.nodes_X[_first_of(below)], 1)
        edges = np.zeros(len(degrees) + 1, dtype=np.int32)
        np.cumsum(degrees, out=edges[1:])
        grown.append(
            Level.of(
                torch.from_numpy(codes[number]),
                torch.from_numpy(edges),
                torch.from_numpy(codes[number + 1]),
            )
        )
    return tuple(grown)


class _Looked:
    """`values[places]` without making all of it."""

    def __init__(self, values: Places, places: Places) -> None:
        self._values = values
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Places) -> Places:
        return self._values[self._places[at]]


def _first_of(own: Insertion) -> Places:
    """Returns which further item first has each of the new nodes."""
    new_A = own.before_A + np.arange(len(own.before_A))
    return own.nodes_X.searchsorted(new_A)


def _lower_bounds(
    sorted_P: Any, low_X: Places, high_X: Places, wanted_X: npt.NDArray[Any]
) -> Places:
    """Returns for each item the first place in [low, high) whose value is not below `wanted`, or
    `high`: a binary search of all in step.
    """
    last = max(len(sorted_P) - 1, 0)
    while bool((low_X < high_X).any()):
        middle_X = (low_X + high_X) // 2
        below_X = (low_X < high_X) & (sorted_P[np.minimum(middle_X, last)] < wanted_X)
        low_X = np.where(below_X, middle_X + 1, low_X)
        high_X = np.where(below_X, high_X, middle_X)  # of a finished one both are the place
    return low_X
