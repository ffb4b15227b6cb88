"""The item index: which codes may follow which, level by level, and which items a semantic ID
holds.

Level-wise CSR with implicit children (ALGORITHMS 5): the distinct SIDs stand sorted; each level
keeps one code per distinct prefix (int16) and where its children begin in the next level (int32),
so that a node's id is its position and no next-state column is needed. The last level's children
are items. The structure never changes within one index: stock, scenarios and requests only say
which nodes are alive, by the number of eligible items below each. A change of stock is added to
those counts in place, a request takes its exclusions off a copy: O(L) an item, never a walk over
the catalogue. Further items make a new index (`grown`).

N items, P_l distinct prefixes of length l + 1, L levels, C content dimensions, B requests, K
scenarios or (padded) children, E excluded items, T = P_0 + .. + P_L-1 + N: every node, then every
item.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from schemas.errors import OxygenRecError

UNKNOWN = -1
# Padded children of every node are looked up, not made, while they stay small (17 MiB a level): a
# step's ten calls become three. Above it 8 bytes a SID matter more than 30 us.
TABLE_ENTRIES = 1 << 20


class ItemIndexInvalid(OxygenRecError):
    """Arrays that do not describe one catalogue."""

    def __init__(self, *, field: str, found: str, wanted: str) -> None:
        self.field = field
        self.found = found
        self.wanted = wanted
        super().__init__(f"item index: {field}: found {found}, wanted {wanted}")


class UnknownSemanticId(OxygenRecError):
    """A semantic ID that no item of this index has."""

    def __init__(self, *, sid: Sequence[int]) -> None:
        self.sid = tuple(sid)
        super().__init__(
            f"semantic ID {self.sid}: not in this item index, wanted one of its generation;"
            " score it with the index that was logged"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """`codes` int16 [P_l]; the children of node i are [first_child[i], first_child[i + 1]), int32
    [P_l + 1].

    `labels` are what stands below, in order: the next level's codes, int16, or the items' rows
    behind the last level. `steps_K` = 0, 1, .. up to the largest degree: known once a version, so
    that no request asks for it. `table`: the children of all nodes, if they are few.
    """

    codes: torch.Tensor
    first_child: torch.Tensor
    labels: torch.Tensor
    steps_K: torch.Tensor
    table: "Children | None" = None

    def children(self, parents: torch.Tensor) -> "Children":
        """Returns the children of nodes [...] of this level."""
        if self.table is not None:
            return Children(*(column_PK[parents] for column_PK in self.table))
        edges_X2 = self.first_child.unfold(0, 2, 1)[parents].long()
        nodes_XK = edges_X2[..., :1] + self.steps_K
        end_X1 = edges_X2[..., 1:]
        padding_XK = nodes_XK >= end_X1
        nodes_XK = torch.minimum(nodes_XK, end_X1 - 1)
        return Children(nodes_XK, self.labels[nodes_XK].long(), padding_XK)

    def with_table(self) -> Self:
        """Returns the level with the table of its children, where that is small enough."""
        if len(self.codes) * len(self.steps_K) > TABLE_ENTRIES:
            return self
        return replace(self, table=self.children(torch.arange(len(self.codes))))


class Children(NamedTuple):
    """Children of some nodes, padded to the level's largest degree, all [..., K]: places in the
    next level, int64, and what stands there (codes, or rows of items, int64); which are padding: it
    repeats the last child.
    """

    nodes_XK: torch.Tensor
    labels_XK: torch.Tensor
    padding_XK: torch.Tensor


class Masks(NamedTuple):
    """What a batch of requests may be given: `alive` bool [B, P_l] a level (an eligible item stands
    below the node), `eligible_BN` bool by row.
    """

    alive: tuple[torch.Tensor, ...]
    eligible_BN: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemIndex:
    """The catalogue at one offset of `semantic-ids`. Rows follow the sorted item keys; only stock
    and scenarios change (`set_eligible`).

    `keys_N` int64, `codes_NL` int16, `content_NC` fp16, `in_stock_N` bool, `scenarios_KN` bool (a
    row a scenario). `leaf_rows_N` int64 holds the rows in SID order: the items of a leaf are a
    slice of it. `paths_NJ` int32 are an item's J = L + 1 places on the axis T: its nodes, itself.
    `counts_KT` int32: eligible items at or below each place.
    """

    keys_N: torch.Tensor
    codes_NL: torch.Tensor
    content_NC: torch.Tensor
    in_stock_N: torch.Tensor
    scenarios_KN: torch.Tensor
    levels: tuple[Level, ...]
    leaf_rows_N: torch.Tensor
    paths_NJ: torch.Tensor
    counts_KT: torch.Tensor

    @classmethod
    def build(
        cls,
        *,
        keys: torch.Tensor,
        codes: torch.Tensor,
        content: torch.Tensor,
        in_stock: torch.Tensor | None = None,
        scenarios: torch.Tensor | None = None,
    ) -> Self:
        """Returns the index of N items: keys [N], codes [N, L], content [N, C]; rows are sorted by
        key here.

        Without `in_stock` everything is in stock, without `scenarios` [K, N] there is one scenario
        that shows everything. Raises `ItemIndexInvalid`.
        """
        count = len(keys)
        stock = torch.ones(count, dtype=torch.bool) if in_stock is None else in_stock
        shown = torch.ones(1, count, dtype=torch.bool) if scenarios is None else scenarios
        _check_shapes(keys, codes, content, stock, shown)
        keys_N, order_N = keys.long().sort(stable=True)
        if count > 1 and bool((keys_N[1:] == keys_N[:-1]).any()):
            twice = int(keys_N[1:][keys_N[1:] == keys_N[:-1]][0])
            raise ItemIndexInvalid(field="keys", found=f"{twice} twice", wanted="distinct keys")
        codes_NL = codes[order_N].to(torch.int16)
        levels, leaf_rows_N = _build_levels(codes_NL)
        stock_N, shown_KN = stock[order_N], shown[:, order_N]
        paths_NJ = _paths(levels, leaf_rows_N)
        return cls(
            keys_N=keys_N,
            codes_NL=codes_NL,
            content_NC=content[order_N].to(torch.float16),
            in_stock_N=stock_N,
            scenarios_KN=shown_KN,
            levels=levels,
            leaf_rows_N=leaf_rows_N,
            paths_NJ=paths_NJ,
            counts_KT=_counts(paths_NJ, shown_KN & stock_N),
        )

    @property
    def depth(self) -> int:
        """L, the number of codes of one SID."""
        return len(self.levels)

    @property
    def sizes(self) -> list[int]:
        """P_0, .., P_L-1, N: the parts of the axis T."""
        return [*(len(level.codes) for level in self.levels), len(self.keys_N)]

    @property
    def sids(self) -> torch.Tensor:
        """The distinct SIDs in order, int16 [P_L-1, L]: position = leaf id."""
        first = self.levels[-1].first_child[:-1].long()
        return self.codes_NL[self.leaf_rows_N[first]]

    def rows_of(self, keys: torch.Tensor) -> torch.Tensor:
        """Returns the row of each item key, int64 of the same shape; `UNKNOWN` (-1) where there is
        none.
        """
        return torch.from_numpy(self._rows(keys.numpy()))

    def _rows(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`rows_of` on the host, where a call costs a fifth of a tensor's."""
        known = self.keys_N.numpy()
        place = np.minimum(known.searchsorted(keys), len(known) - 1)
        place[known[place] != keys] = UNKNOWN
        return place

    def sid_of(self, item_key: int) -> tuple[int, ...] | None:
        """Returns the item's SID, or None for an item this index does not hold."""
        row = int(self.rows_of(torch.tensor([item_key])))
        return None if row == UNKNOWN else tuple(self.codes_NL[row].tolist())

    def set_eligible(
        self, keys: torch.Tensor, in_stock: torch.Tensor, scenarios: torch.Tensor | None = None
    ) -> None:
        """Changes the stock of items `keys` [X], and with `scenarios` bool [K, X] where they are
        shown; in place.

        O(L) a changed item. Unknown keys change nothing; of a repeated key the last value holds.
        Whoever decodes with this index must not do so meanwhile: nodes would be half changed.
        """
        rows_X = self._rows(keys.numpy())
        known_X = rows_X != UNKNOWN
        rows_X = rows_X[known_X]
        changed_C, last_C = np.unique(rows_X[::-1], return_index=True)
        place_C = known_X.nonzero()[0][::-1][last_C]
        stock_N, shown_KN = self.in_stock_N.numpy(), self.scenarios_KN.numpy()
        before_KC = shown_KN[:, changed_C] & stock_N[changed_C]
        stock_N[changed_C] = in_stock.numpy()[place_C]
        if scenarios is not None:
            shown_KN[:, changed_C] = scenarios.numpy()[:, place_C]
        after_KC = shown_KN[:, changed_C] & stock_N[changed_C]
        paths_CJ = self.paths_NJ.numpy()[changed_C]
        for counts_T, before_C, after_C in zip(
            self.counts_KT.numpy(), before_KC, after_KC, strict=True
        ):
            moved_C = before_C != after_C
            step_X1 = np.where(after_C[moved_C], 1, -1)[:, None]
            np.add.at(counts_T, paths_CJ[moved_C], step_X1.astype(counts_T.dtype))

    def grown(
        self,
        *,
        keys: torch.Tensor,
        codes: torch.Tensor,
        content: torch.Tensor,
        in_stock: torch.Tensor,
        scenarios: torch.Tensor,
    ) -> Self:
        """Returns the index with further items (arrays as `build` takes them); this one stays.

        Structure is only ever added to: an item that leaves the catalogue is out of stock. Raises
        `ItemIndexInvalid`.
        """
        return self.build(
            keys=torch.cat([self.keys_N, keys.long()]),
            codes=torch.cat([self.codes_NL, codes.to(torch.int16)]),
            content=torch.cat([self.content_NC, content.to(torch.float16)]),
            in_stock=torch.cat([self.in_stock_N, in_stock]),
            scenarios=torch.cat([self.scenarios_KN, scenarios], dim=1),
        )

    def masks(self, scenario_B: torch.Tensor, excluded_BE: torch.Tensor) -> Masks:
        """Returns what each request may be given: in stock, of its scenario, not excluded.

        `excluded_BE` holds item keys; keys this index does not hold (padding -1 among them) and
        repeated ones change nothing.
        """
        counts_BT = self.counts_KT.numpy()[scenario_B.numpy()]
        rows_BE = self._rows(excluded_BE.numpy())
        rows_BE.sort(axis=1)  # unknown ones first, repeated ones beside each other
        fresh_BE = rows_BE != UNKNOWN
        fresh_BE[:, 1:] &= rows_BE[:, 1:] != rows_BE[:, :-1]
        number, column = fresh_BE.nonzero()
        places_XJ = self.paths_NJ.numpy()[rows_BE[number, column]]
        offered_X = counts_BT[number, places_XJ[:, -1]]  # 1 or 0: the items' own places
        np.subtract.at(counts_BT, (number[:, None], places_XJ), offered_X[:, None])
        *alive, eligible_BN = torch.from_numpy(counts_BT > 0).split(self.sizes, dim=1)
        return Masks(tuple(alive), eligible_BN)

    def nodes_of(self, sids_XL: torch.Tensor) -> torch.Tensor:
        """Returns the node of every prefix of the SIDs [..., L], int64 of the same shape.

        Raises `UnknownSemanticId`, naming the first SID that no item has.
        """
        flat_XL = sids_XL.reshape(-1, self.depth).long()
        table = self.sids.long()
        width = 1 + max(int(table.max()), int(flat_XL.max()) if len(flat_XL) else 0)
        leaf_X = torch.searchsorted(_numbers(table, width), _numbers(flat_XL, width))
        leaf_X = leaf_X.clamp(max=len(table) - 1)
        wrong_X = (table[leaf_X] != flat_XL).any(dim=1)
        if bool(wrong_X.any()):
            raise UnknownSemanticId(sid=flat_XL[wrong_X][0].tolist())
        nodes = [leaf_X]
        for level in reversed(self.levels[:-1]):
            nodes.append(torch.searchsorted(level.first_child.long(), nodes[-1], right=True) - 1)
        return torch.stack(nodes[::-1], dim=1).reshape(sids_XL.shape)

    def children(self, level: int, parents: torch.Tensor) -> Children:
        """Returns the children of nodes of `level` - 1: nodes of `level`."""
        return self.levels[level - 1].children(parents)

    def leaf_items(self, leaves: torch.Tensor) -> Children:
        """Returns the items of the leaves: places in `leaf_rows_N`, in the order of SID and key."""
        return self.levels[-1].children(leaves)


def _numbers(sids: torch.Tensor, width: int) -> torch.Tensor:
    """Returns one sortable number an SID: its codes as digits. 4 levels of 32,767 codes fit into 63
    bits.
    """
    numbers = torch.zeros(len(sids), dtype=torch.int64, device=sids.device)
    for level in range(sids.shape[1]):
        numbers = numbers * width + sids[:, level]
    return numbers


def _build_levels(codes_NL: torch.Tensor) -> tuple[tuple[Level, ...], torch.Tensor]:
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
    labels = [*codes[1:], order_N]
    levels = []
    for level, (own, below) in enumerate(pairwise(starts)):
        edges = torch.cat([own, torch.tensor([len(codes_NL)])])
        first_child = torch.searchsorted(below, edges).to(torch.int32)
        found = Level(
            codes=codes[level],
            first_child=first_child,
            labels=labels[level],
            steps_K=torch.arange(int(first_child.diff().max())),
        )
        levels.append(found.with_table())
    return tuple(levels), order_N


def _paths(levels: Sequence[Level], leaf_rows_N: torch.Tensor) -> torch.Tensor:
    count = len(leaf_rows_N)
    places = [torch.arange(count)]
    for level in reversed(levels):
        parent = torch.arange(len(level.codes)).repeat_interleave(level.first_child.long().diff())
        places.append(parent[places[-1]])
    paths_NJ = torch.empty(count, len(places), dtype=torch.int32)
    start = 0
    for number, (own, level) in enumerate(zip(places[:0:-1], levels, strict=True)):
        paths_NJ[leaf_rows_N, number] = (own + start).int()
        start += len(level.codes)
    paths_NJ[:, -1] = torch.arange(start, start + count)
    return paths_NJ


def _counts(paths_NJ: torch.Tensor, eligible_KN: torch.Tensor) -> torch.Tensor:
    counts_KT = torch.zeros(len(eligible_KN), int(paths_NJ.max()) + 1, dtype=torch.int32)
    for column in paths_NJ.unbind(1):
        counts_KT.scatter_add_(1, column.long().expand_as(eligible_KN), eligible_KN.int())
    return counts_KT


def _check_shapes(
    keys: torch.Tensor,
    codes: torch.Tensor,
    content: torch.Tensor,
    stock: torch.Tensor,
    scenarios: torch.Tensor,
) -> None:
    count = len(keys)
    wanted = {
        "keys": (keys, 1, count, 0),
        "codes": (codes, 2, count, 0),
        "content": (content, 2, count, 0),
        "in_stock": (stock, 1, count, 0),
        "scenarios": (scenarios, 2, count, 1),
    }
    if count == 0:
        raise ItemIndexInvalid(field="keys", found="no item", wanted="at least one")
    for name, (tensor, dims, length, axis) in wanted.items():
        if tensor.dim() != dims or tensor.shape[axis] != length:
            shape = tuple(tensor.shape)
            text = f"{dims} dimensions, {length} items on axis {axis}"
            raise ItemIndexInvalid(field=name, found=f"shape {shape}", wanted=text)
    if int(codes.min()) < 0:
        raise ItemIndexInvalid(field="codes", found=f"{int(codes.min())}", wanted="0 or more")
