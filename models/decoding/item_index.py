"""The item index: which codes may follow which, level by level, and which items a semantic ID
holds.

Level-wise CSR with implicit children (ALGORITHMS 5, `models.decoding.levels`); the last level's
children are items. Beside the structure stands, for each scenario, how many eligible items are at
or below each node. A change of stock is added to those counts in place: O(L) an item. A request's
exclusions are a list beside them (`models.decoding.masks`). Further items make a new index
(`grown`), into which they are put between the old ones; this one stays. An item's row never moves.

N items, P_l distinct prefixes of length l + 1, L levels, C content dimensions, B requests, K
scenarios, E excluded items, X any number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from models.decoding.growing_rows import GrowingRows
from models.decoding.levels import (
    Children,
    Insertion,
    Level,
    Places,
    build_levels,
    grown_levels,
    insertions,
)
from models.decoding.masks import Masks, masks_of
from schemas.errors import OxygenRecError

UNKNOWN = -1


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
class ItemIndex:
    """The catalogue at one offset of `semantic-ids`; only stock and scenarios change
    (`set_eligible`). Rows: those of `build` by key, behind them the further ones as they came.

    `in_stock_N` bool, `scenarios_KN` bool (a row a scenario). `leaf_N` int32: the SID of each row,
    as its node of the last level. `counts` int32 [K, P_l] a level: eligible items below each node.
    `young_keys`, sorted, stand at rows `young_rows`; the rows before them are sorted by key.
    """

    keys: GrowingRows
    codes: GrowingRows
    content: GrowingRows
    in_stock_N: torch.Tensor
    scenarios_KN: torch.Tensor
    levels: tuple[Level, ...]
    leaf_N: npt.NDArray[np.int32]
    counts: tuple[torch.Tensor, ...]
    young_keys: Places
    young_rows: Places

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
        _check_distinct(keys_N)
        codes_NL = codes[order_N].to(torch.int16)
        levels = build_levels(codes_NL)
        leaf_N = _leaves(levels[-1])
        stock_N, shown_KN = stock[order_N], shown[:, order_N]
        none = np.zeros(0, dtype=np.int64)
        return cls(
            keys=GrowingRows.of(keys_N),
            codes=GrowingRows.of(codes_NL),
            content=GrowingRows.of(content[order_N].to(torch.float16)),
            in_stock_N=stock_N,
            scenarios_KN=shown_KN,
            levels=levels,
            leaf_N=leaf_N,
            counts=_counts(levels, leaf_N, shown_KN & stock_N),
            young_keys=none,
            young_rows=none,
        )

    @property
    def keys_N(self) -> torch.Tensor:
        """Item keys by row, int64 [N]."""
        return self.keys.rows_N

    @property
    def codes_NL(self) -> torch.Tensor:
        """Codes by row, int16 [N, L]."""
        return self.codes.rows_N

    @property
    def content_NC(self) -> torch.Tensor:
        """Text embeddings by row, fp16 [N, C]."""
        return self.content.rows_N

    @property
    def depth(self) -> int:
        """L, the number of codes of one SID."""
        return len(self.levels)

    @property
    def sids(self) -> torch.Tensor:
        """The distinct SIDs in order, int16 [P_L-1, L]: position = leaf id."""
        leaf = self.levels[-1]
        return self.codes_NL[leaf.labels[leaf.first_child[:-1].long()].long()]

    def rows_of(self, keys: torch.Tensor) -> torch.Tensor:
        """Returns the row of each item key, int64 of the same shape; `UNKNOWN` (-1) where there is
        none.
        """
        return torch.from_numpy(self._rows(keys.numpy()))

    def _rows(self, keys: Places) -> Places:
        """`rows_of` on the host, where a call costs a fifth of a tensor's."""
        rows = _found(self.keys_N.numpy()[: len(self.keys_N) - len(self.young_keys)], keys)
        if len(self.young_keys):
            young = _found(self.young_keys, keys)
            rows = np.where(young == UNKNOWN, rows, self.young_rows[young])
        return rows

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
        steps_KC = after_KC.astype(np.int32) - before_KC.astype(np.int32)
        _add(self.levels, self.counts, self.leaf_N[changed_C], steps_KC)

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

        Their rows follow this index's rows, in the order given. Structure is only ever added to: an
        item that leaves the catalogue is out of stock. Raises `ItemIndexInvalid`.
        """
        _check_shapes(keys, codes, content, in_stock, scenarios)
        own_X = keys.long().numpy()
        if len(known := own_X[self._rows(own_X) != UNKNOWN]):
            raise ItemIndexInvalid(field="keys", found=f"{known[0]} again", wanted="further items")
        rows_X = np.arange(len(self.keys_N), len(self.keys_N) + len(own_X))
        codes_XL = codes.to(torch.int16)
        order_X = np.lexsort([own_X, *codes_XL.numpy().T[::-1]])
        sorted_XL = codes_XL.numpy()[order_X]
        inserted = insertions(self.levels, sorted_XL, own_X[order_X], self.keys_N.numpy())
        levels = grown_levels(self.levels, inserted, sorted_XL, rows_X[order_X])
        leaves_X = np.empty(len(own_X), dtype=np.int32)
        leaves_X[order_X] = inserted[-2].nodes_X
        moved_P = inserted[-2].moved(len(self.levels[-1].codes))
        counts = _grown_counts(self.counts, inserted)
        _add(levels, counts, leaves_X, (scenarios & in_stock).int().numpy())
        young_keys = np.concatenate([self.young_keys, own_X])
        order_Y = young_keys.argsort()
        _check_distinct(torch.from_numpy(young_keys[order_Y]))
        return type(self)(
            keys=self.keys.appended(keys.long()),
            codes=self.codes.appended(codes_XL),
            content=self.content.appended(content.to(torch.float16)),
            in_stock_N=torch.cat([self.in_stock_N, in_stock]),
            scenarios_KN=torch.cat([self.scenarios_KN, scenarios], dim=1),
            levels=levels,
            leaf_N=np.concatenate([moved_P[self.leaf_N], leaves_X]),
            counts=counts,
            young_keys=young_keys[order_Y],
            young_rows=np.concatenate([self.young_rows, rows_X])[order_Y],
        )

    def masks(self, scenario_B: torch.Tensor, excluded_BE: torch.Tensor) -> Masks:
        """Returns what each request may be given: in stock, of its scenario, not excluded.

        `excluded_BE` holds item keys; keys this index does not hold (padding -1 among them) and
        repeated ones change nothing. Valid until the index changes.
        """
        return masks_of(
            levels=self.levels,
            counts=self.counts,
            in_stock_N=self.in_stock_N,
            scenarios_KN=self.scenarios_KN,
            leaf_N=self.leaf_N,
            scenario_B=scenario_B,
            excluded_BE=self._rows(excluded_BE.numpy()),
        )

    def nodes_of(self, sids_XL: torch.Tensor) -> torch.Tensor:
        """Returns the node of every prefix of the SIDs [..., L], int64 of the same shape.

        Raises `UnknownSemanticId`, naming the first SID that no item has.
        """
        codes_XL = sids_XL.long()
        first_P = self.levels[0].codes.long()
        wanted_X = codes_XL[..., 0].contiguous()
        nodes_X = torch.searchsorted(first_P, wanted_X).clamp(max=len(first_P) - 1)
        known_X = first_P[nodes_X] == wanted_X
        nodes = [nodes_X]
        for level in range(1, self.depth):
            children = self.children(level, nodes[-1])
            is_it_XK = (children.labels_XK == codes_XL[..., level, None]) & ~children.padding_XK
            known_X &= is_it_XK.any(dim=-1)
            place_X1 = is_it_XK.int().argmax(dim=-1, keepdim=True)
            nodes.append(children.nodes_XK.gather(-1, place_X1).squeeze(-1))
        if not bool(known_X.all()):
            raise UnknownSemanticId(sid=codes_XL[~known_X][0].tolist())
        return torch.stack(nodes, dim=-1)

    def children(self, level: int, parents: torch.Tensor) -> Children:
        """Returns the children of nodes of `level` - 1: nodes of `level`."""
        return self.levels[level - 1].children(parents)

    def leaf_items(self, leaves: torch.Tensor) -> Children:
        """Returns the items of the leaves: places in the order of SID and key, and rows."""
        return self.levels[-1].children(leaves)


def _found(sorted_keys: Places, keys: Places) -> Places:
    """Returns the place of each key, or `UNKNOWN`."""
    place = np.minimum(sorted_keys.searchsorted(keys), len(sorted_keys) - 1)
    place[sorted_keys[place] != keys] = UNKNOWN
    return place


def _leaves(leaf: Level) -> npt.NDArray[np.int32]:
    """Returns the leaf of each row."""
    degrees = np.diff(leaf.first_child.numpy())
    leaf_N = np.empty(len(leaf.labels), dtype=np.int32)
    leaf_N[leaf.labels.numpy()] = np.arange(len(degrees), dtype=np.int32).repeat(degrees)
    return leaf_N


def _counts(
    levels: Sequence[Level], leaf_N: npt.NDArray[np.int32], eligible_KN: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Returns how many eligible items stand below each node: an inner one's are its children's."""
    below_KP = np.stack(
        [np.bincount(leaf_N[row], minlength=len(levels[-1].codes)) for row in eligible_KN.numpy()]
    ).astype(np.int32)
    counts = [below_KP]
    for level in reversed(levels[:-1]):
        edges = level.first_child.numpy()[:-1]
        counts.append(np.add.reduceat(counts[-1], edges, axis=1, dtype=np.int32))
    return tuple(torch.from_numpy(found) for found in counts[::-1])


def _grown_counts(
    counts: Sequence[torch.Tensor], inserted: Sequence[Insertion]
) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.from_numpy(own.put(before.numpy(), 0))
        for before, own in zip(counts, inserted, strict=False)
    )


def _add(
    levels: Sequence[Level],
    counts: Sequence[torch.Tensor],
    leaves_X: npt.NDArray[np.int32],
    steps_KX: npt.NDArray[np.int32],
) -> None:
    """Adds a number an item and scenario to the leaves and all that stands above them, in place."""
    nodes_X = leaves_X
    for number in reversed(range(len(levels))):
        if number < len(levels) - 1:
            nodes_X = levels[number].parents(nodes_X)
        for counts_P, steps_X in zip(counts[number].numpy(), steps_KX, strict=True):
            np.add.at(counts_P, nodes_X, steps_X)


def _check_distinct(sorted_keys: torch.Tensor) -> None:
    twice = sorted_keys[1:][sorted_keys[1:] == sorted_keys[:-1]]
    if len(twice):
        raise ItemIndexInvalid(field="keys", found=f"{int(twice[0])} twice", wanted="distinct keys")


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
