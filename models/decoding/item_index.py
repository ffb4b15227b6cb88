"""The item index: which codes may follow which, level by level, and which items a semantic ID
holds.

Level-wise CSR with implicit children (ALGORITHMS 5): the distinct SIDs stand sorted; each level
keeps one code per distinct prefix (int16) and where its children begin in the next level (int32),
so that a node's id is its position and no next-state column is needed. The last level's children
are items. The structure never changes within one index: stock, scenarios and requests only say
which nodes are alive.

N items, P_l distinct prefixes of length l + 1, L levels, C content dimensions, B requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch

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
class Level:
    """`codes` int16 [P_l]; the children of node i are [first_child[i], first_child[i + 1]), int32
    [P_l + 1].
    """

    codes: torch.Tensor
    first_child: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemIndex:
    """The catalogue at one offset of `semantic-ids`, immutable. Rows follow the sorted item keys.

    `keys_N` int64, `codes_NL` int16, `content_NC` fp16, `in_stock_N` bool, `scenarios_KN` bool (a
    row a scenario). `leaf_rows_N` int32 holds the rows in SID order: the items of a leaf are a
    slice of it.
    """

    keys_N: torch.Tensor
    codes_NL: torch.Tensor
    content_NC: torch.Tensor
    in_stock_N: torch.Tensor
    scenarios_KN: torch.Tensor
    levels: tuple[Level, ...]
    leaf_rows_N: torch.Tensor

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
        return cls(
            keys_N=keys_N,
            codes_NL=codes_NL,
            content_NC=content[order_N].to(torch.float16),
            in_stock_N=stock[order_N],
            scenarios_KN=shown[:, order_N],
            levels=levels,
            leaf_rows_N=leaf_rows_N,
        )

    @property
    def depth(self) -> int:
        """L, the number of codes of one SID."""
        return len(self.levels)

    @property
    def sids(self) -> torch.Tensor:
        """The distinct SIDs in order, int16 [P_L-1, L]: position = leaf id."""
        first = self.levels[-1].first_child[:-1].long()
        return self.codes_NL[self.leaf_rows_N[first].long()]

    def rows_of(self, keys: torch.Tensor) -> torch.Tensor:
        """Returns the row of each item key, int64 of the same shape; `UNKNOWN` (-1) where there is
        none.
        """
        place = torch.searchsorted(self.keys_N, keys).clamp(max=len(self.keys_N) - 1)
        return torch.where(self.keys_N[place] == keys, place, UNKNOWN)

    def sid_of(self, item_key: int) -> tuple[int, ...] | None:
        """Returns the item's SID, or None for an item this index does not hold."""
        row = int(self.rows_of(torch.tensor([item_key])))
        return None if row == UNKNOWN else tuple(self.codes_NL[row].tolist())

    def eligible(self, scenario_B: torch.Tensor, excluded_BE: torch.Tensor) -> torch.Tensor:
        """Returns which items each request may be given, bool [B, N]: in stock, of its scenario,
        not excluded.

        `excluded_BE` holds item keys; keys this index does not hold (padding -1 among them) change
        nothing.
        """
        eligible_BN = self.scenarios_KN[scenario_B] & self.in_stock_N
        rows_BE = self.rows_of(excluded_BE)
        keep_BN = torch.ones(len(eligible_BN), len(self.keys_N) + 1, dtype=torch.bool)
        keep_BN.scatter_(1, torch.where(rows_BE == UNKNOWN, len(self.keys_N), rows_BE), False)
        return eligible_BN & keep_BN[:, :-1]

    def alive(self, eligible_BN: torch.Tensor) -> list[torch.Tensor]:
        """Returns per level which nodes may be taken, bool [B, P_l]: an eligible item stands below.

        Segment counts by prefix sums, O(N) a request and without a loop over nodes.
        """
        below_BX = eligible_BN[:, self.leaf_rows_N.long()]
        alive: list[torch.Tensor] = []
        for level in reversed(self.levels):
            sums_BX = torch.zeros(len(below_BX), below_BX.shape[1] + 1, dtype=torch.int32)
            torch.cumsum(below_BX, dim=1, dtype=torch.int32, out=sums_BX[:, 1:])
            edge_BP = sums_BX[:, level.first_child.long()]
            below_BX = edge_BP[:, 1:] > edge_BP[:, :-1]
            alive.append(below_BX)
        return alive[::-1]

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

    def children(self, level: int, parents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the children of nodes of `level` - 1, padded: node ids [..., K] of `level`, and
        which are real.

        K is the largest degree among the parents; padding repeats the last child.
        """
        return _slices(self.levels[level - 1].first_child, parents)

    def leaf_items(self, leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the rows of the leaves' items, padded, [..., K], and which are real."""
        places, real = _slices(self.levels[-1].first_child, leaves)
        return self.leaf_rows_N[places].long(), real


def _slices(first_child: torch.Tensor, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    first = first_child[nodes].long()
    degree = first_child[nodes + 1].long() - first
    steps = torch.arange(int(degree.max()))
    real = steps < degree.unsqueeze(-1)
    return first.unsqueeze(-1) + torch.minimum(steps, degree.unsqueeze(-1) - 1), real


def _numbers(sids: torch.Tensor, width: int) -> torch.Tensor:
    """Returns one sortable number an SID: its codes as digits. 4 levels of 32,767 codes fit into 63
    bits.
    """
    numbers = torch.zeros(len(sids), dtype=torch.int64)
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
    levels = []
    for level, (own, below) in enumerate(pairwise(starts)):
        edges = torch.cat([own, torch.tensor([len(codes_NL)])])
        first_child = torch.searchsorted(below, edges).to(torch.int32)
        levels.append(Level(codes=ordered_NL[own, level], first_child=first_child))
    return tuple(levels), order_N.to(torch.int32)


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
