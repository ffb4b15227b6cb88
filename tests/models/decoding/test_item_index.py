"""The item index against dictionaries."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoding.item_index import UNKNOWN, ItemIndex, ItemIndexInvalid, UnknownSemanticId

CODES = 4
SIDS = st.integers(1, 4).flatmap(
    lambda depth: st.lists(st.tuples(*[st.integers(0, CODES - 1)] * depth), min_size=1, max_size=40)
)


def build(sids: list[tuple[int, ...]], **changes: torch.Tensor) -> ItemIndex:
    count = len(sids)
    arrays = {
        "keys": torch.arange(count) * 7 + 100,
        "codes": torch.tensor(sids),
        "content": torch.zeros(count, 2),
    }
    return ItemIndex.build(**{**arrays, **changes})


@given(SIDS)
def test_every_level_holds_the_distinct_prefixes_in_order(sids: list[tuple[int, ...]]) -> None:
    index = build(sids)
    for length, level in enumerate(index.levels, 1):
        prefixes = sorted({sid[:length] for sid in sids})
        assert level.codes.tolist() == [prefix[-1] for prefix in prefixes]
    assert [tuple(sid) for sid in index.sids.tolist()] == sorted(set(sids))


@given(SIDS)
def test_children_are_the_longer_prefixes_and_leaves_hold_their_items(
    sids: list[tuple[int, ...]],
) -> None:
    index = build(sids)
    for length in range(1, index.depth):
        parents = sorted({sid[:length] for sid in sids})
        longer = sorted({sid[: length + 1] for sid in sids})
        nodes, codes, padding = index.children(length, torch.arange(len(parents)))
        assert torch.equal(codes, index.levels[length].codes[nodes].long())
        for parent, row, mask in zip(parents, nodes.tolist(), padding.tolist(), strict=True):
            own = [node for node, padded in zip(row, mask, strict=True) if not padded]
            assert [longer[node] for node in own] == [p for p in longer if p[:-1] == parent]
    leaves = sorted(set(sids))
    places, rows, padding = index.leaf_items(torch.arange(len(leaves)))
    assert torch.equal(rows, index.leaf_rows_N[places])
    for leaf, row, mask in zip(leaves, rows.tolist(), padding.tolist(), strict=True):
        items = [item for item, padded in zip(row, mask, strict=True) if not padded]
        assert items == [item for item, sid in enumerate(sids) if sid == leaf]


@given(SIDS, st.data())
@settings(max_examples=40)
def test_a_node_is_alive_iff_an_eligible_item_stands_below(
    sids: list[tuple[int, ...]], data: st.DataObject
) -> None:
    flags = st.lists(st.booleans(), min_size=len(sids), max_size=len(sids))
    stock, *shown = (data.draw(flags) for _ in range(3))
    index = build(sids, in_stock=torch.tensor(stock), scenarios=torch.tensor(shown))
    keys = st.sampled_from([UNKNOWN, 3, *index.keys_N.tolist()])  # 3: an item nobody knows
    excluded = data.draw(st.lists(st.lists(keys, min_size=6, max_size=6), min_size=3, max_size=3))
    scenario = data.draw(st.lists(st.integers(0, 1), min_size=3, max_size=3))
    masks = index.masks(torch.tensor(scenario), torch.tensor(excluded))
    for request in range(3):
        eligible = [
            stock[row] and shown[scenario[request]][row] and key not in excluded[request]
            for row, key in enumerate(index.keys_N.tolist())
        ]
        assert masks.eligible_BN[request].tolist() == eligible
        for length, level in enumerate(masks.alive, 1):
            prefixes = sorted({sid[:length] for sid in sids})
            below = {s[:length] for s, ok in zip(sids, eligible, strict=True) if ok}
            assert level[request].tolist() == [prefix in below for prefix in prefixes]


@given(SIDS, st.data())
@settings(max_examples=40)
def test_changed_stock_and_scenarios_are_the_index_built_anew(
    sids: list[tuple[int, ...]], data: st.DataObject
) -> None:
    flags = st.lists(st.booleans(), min_size=len(sids), max_size=len(sids))
    stock, *shown = (data.draw(flags) for _ in range(3))
    index = build(sids, in_stock=torch.tensor(stock), scenarios=torch.tensor(shown))
    place = {key: row for row, key in enumerate(index.keys_N.tolist())}
    keys = st.sampled_from([3, *place])  # 3: an item nobody knows
    change = st.tuples(keys, st.booleans(), st.booleans(), st.booleans())
    for changes in data.draw(st.lists(st.lists(change, max_size=12), max_size=3)):
        moves_shown = data.draw(st.booleans())
        for key, there, home, search in changes:
            if (row := place.get(key)) is not None:
                stock[row] = there
                if moves_shown:
                    shown[0][row], shown[1][row] = home, search
        columns = torch.tensor([change[1:] for change in changes], dtype=torch.bool).view(-1, 3).T
        index.set_eligible(
            torch.tensor([change[0] for change in changes], dtype=torch.int64),
            columns[0],
            columns[1:] if moves_shown else None,
        )
    wanted = build(sids, in_stock=torch.tensor(stock), scenarios=torch.tensor(shown))
    assert torch.equal(index.counts_KT, wanted.counts_KT)
    assert torch.equal(index.in_stock_N, wanted.in_stock_N)
    assert torch.equal(index.scenarios_KN, wanted.scenarios_KN)


@given(SIDS, st.data())
@settings(max_examples=40)
def test_a_grown_index_is_the_one_built_of_all_items_and_the_old_one_stays(
    sids: list[tuple[int, ...]], data: st.DataObject
) -> None:
    flags = st.lists(st.booleans(), min_size=len(sids), max_size=len(sids))
    stock, *shown = (data.draw(flags) for _ in range(3))
    order = data.draw(st.permutations(range(len(sids))))
    first = data.draw(st.integers(1, len(sids)))
    everything = {
        "keys": torch.arange(len(sids)) * 7 + 100,
        "codes": torch.tensor(sids),
        "content": torch.arange(2 * len(sids)).view(-1, 2).half(),
        "in_stock": torch.tensor(stock),
    }
    parts = []
    for chosen in (order[:first], order[first:]):
        arrays = {name: array[chosen] for name, array in everything.items()}
        parts.append({**arrays, "scenarios": torch.tensor(shown)[:, chosen]})
    old = ItemIndex.build(**parts[0])
    new = old.grown(**parts[1])
    wanted = ItemIndex.build(**everything, scenarios=torch.tensor(shown))
    assert torch.equal(new.sids, wanted.sids)
    assert torch.equal(new.content_NC, wanted.content_NC)
    assert torch.equal(new.counts_KT, wanted.counts_KT)
    assert torch.equal(new.leaf_rows_N, wanted.leaf_rows_N)
    assert len(old.keys_N) == first


def test_masks_of_one_request_leave_the_next_ones_alone() -> None:
    index = build([(0,), (1,)])
    for excluded in ([[100]], [[UNKNOWN]]):
        masks = index.masks(torch.tensor([0]), torch.tensor(excluded))
        assert masks.eligible_BN.tolist() == [[excluded == [[UNKNOWN]], True]]


@given(SIDS)
def test_nodes_of_finds_every_prefix(sids: list[tuple[int, ...]]) -> None:
    index = build(sids)
    nodes = index.nodes_of(torch.tensor(sids))
    for sid, found in zip(sids, nodes.tolist(), strict=True):
        for length, node in enumerate(found, 1):
            assert sorted({s[:length] for s in sids})[node] == sid[:length]


def test_eligible_is_stock_and_scenario_and_not_excluded() -> None:
    index = build(
        [(0,), (1,), (2,), (3,)],
        in_stock=torch.tensor([True, False, True, True]),
        scenarios=torch.tensor([[True] * 4, [True, True, False, True]]),
    )
    excluded = torch.tensor([[121, -1, 5], [-1, -1, -1]])
    masks = index.masks(torch.tensor([0, 1]), excluded)
    assert masks.eligible_BN.tolist() == [[True, False, True, False], [True, False, False, True]]


def test_rows_follow_the_keys_whatever_the_order_they_came_in() -> None:
    index = build([(3,), (1,), (2,)], keys=torch.tensor([30, 10, 20]))
    assert index.rows_of(torch.tensor([30, 11, 10, 99, -1])).tolist() == [
        2, UNKNOWN, 0, UNKNOWN, UNKNOWN,
    ]  # fmt: skip
    assert index.sid_of(30) == (3,)
    assert index.sid_of(31) is None


@given(SIDS)
@settings(max_examples=40)
def test_children_are_the_same_looked_up_or_made(sids: list[tuple[int, ...]]) -> None:
    for level in build(sids).levels:
        nodes = torch.arange(len(level.codes)).expand(2, -1)
        assert level.table is not None
        for looked_up, made in zip(
            level.children(nodes), replace(level, table=None).children(nodes), strict=True
        ):
            assert torch.equal(looked_up, made)


def test_structure_takes_two_bytes_a_leaf_and_six_an_inner_node() -> None:
    sids = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(4))
    index = build([tuple(sid) for sid in sids.tolist()])
    first, second, leaf = index.levels
    inner = sum(level.codes.nbytes + level.first_child.nbytes for level in (first, second))
    edges = 2 * 4  # one closing edge a level
    assert inner + leaf.codes.nbytes - edges == 6 * 4 + 6 * 16 + 2 * 64


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"keys": torch.tensor([1, 1])}, "keys"),
        ({"codes": torch.tensor([[0], [-1]])}, "codes"),
        ({"content": torch.zeros(3, 2)}, "content"),
        ({"in_stock": torch.ones(3, dtype=torch.bool)}, "in_stock"),
    ],
)
def test_arrays_of_two_catalogues_are_refused_by_name(
    changes: dict[str, torch.Tensor], field: str
) -> None:
    with pytest.raises(ItemIndexInvalid, match=field):
        build([(0,), (1,)], **changes)


def test_a_sid_that_no_item_has_is_named() -> None:
    with pytest.raises(UnknownSemanticId, match=r"\(1, 9\)"):
        build([(1, 0), (2, 1)]).nodes_of(torch.tensor([[1, 0], [1, 9]]))
