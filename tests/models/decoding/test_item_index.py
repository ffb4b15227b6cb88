"""The item index against dictionaries."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoding.item_index import UNKNOWN, ItemIndex, ItemIndexInvalid, UnknownSemanticId
from models.decoding.masks import Masks

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


def eligible_of(index: ItemIndex, masks: Masks) -> list[list[bool]]:
    """Returns whether each request may be given each row."""
    rows_BN = torch.arange(len(index.keys_N)).expand(len(masks.scenario_B), -1)
    found: list[list[bool]] = masks.eligible(rows_BN).tolist()
    return found


def alive_of(index: ItemIndex, masks: Masks) -> list[list[list[bool]]]:
    """Returns whether each node of each level is alive for each request."""
    batch = len(masks.scenario_B)
    every = [torch.arange(len(level.codes)).expand(batch, -1) for level in index.levels]
    found = [(~masks.empty(number, nodes)).tolist() for number, nodes in enumerate(every)]
    assert (~masks.empty_roots()).tolist() == found[0]
    return found


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
    assert torch.equal(rows, index.levels[-1].labels[places].long())
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
        assert eligible_of(index, masks)[request] == eligible
        for length, level in enumerate(alive_of(index, masks), 1):
            prefixes = sorted({sid[:length] for sid in sids})
            below = {s[:length] for s, ok in zip(sids, eligible, strict=True) if ok}
            assert level[request] == [prefix in below for prefix in prefixes]


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
    for found, counts in zip(index.counts, wanted.counts, strict=True):
        assert torch.equal(found, counts)
    assert torch.equal(index.in_stock_N, wanted.in_stock_N)
    assert torch.equal(index.scenarios_KN, wanted.scenarios_KN)


def arrays_of(sids: list[tuple[int, ...]], data: st.DataObject) -> dict[str, torch.Tensor]:
    """Returns a catalogue as `ItemIndex.build` takes it, in two scenarios."""
    flags = st.lists(st.booleans(), min_size=len(sids), max_size=len(sids))
    stock, *shown = (data.draw(flags) for _ in range(3))
    return {
        "keys": torch.arange(len(sids)) * 7 + 100,
        "codes": torch.tensor(sids),
        "content": torch.arange(2 * len(sids)).view(-1, 2).half(),
        "in_stock": torch.tensor(stock),
        "scenarios": torch.tensor(shown),
    }


def chosen(arrays: dict[str, torch.Tensor], places: list[int]) -> dict[str, torch.Tensor]:
    return {
        name: array[:, places] if name == "scenarios" else array[places]
        for name, array in arrays.items()
    }


def everything_of(index: ItemIndex) -> list[object]:
    """Returns what an index says, without the numbers of its rows: they depend on its growth."""
    leaf = index.levels[-1]
    rows = leaf.labels.long()
    keys = index.keys_N[rows]
    assert torch.equal(index.rows_of(keys), rows)
    degrees = leaf.first_child.diff().long()
    leaves = torch.arange(len(degrees)).repeat_interleave(degrees)
    assert torch.equal(torch.from_numpy(index.leaf_N)[rows].long(), leaves)
    by_row = (index.codes_NL, index.content_NC, index.in_stock_N, index.scenarios_KN.T)
    structure = [
        (level.codes.tolist(), level.first_child.tolist(), len(level.steps_K))
        for level in index.levels
    ]
    return [
        keys.tolist(),
        structure,
        index.sids.tolist(),
        *(array[rows].tolist() for array in by_row),
        *(counts.tolist() for counts in index.counts),
    ]


@given(SIDS, st.data())
@settings(max_examples=80)
def test_an_index_grown_step_by_step_is_the_one_built_of_all_items_and_old_ones_stay(
    sids: list[tuple[int, ...]], data: st.DataObject
) -> None:
    arrays = arrays_of(sids, data)
    order = data.draw(st.permutations(range(len(sids))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sids)), min_size=1)) | {len(sids)})
    grown = ItemIndex.build(**chosen(arrays, order[: cuts[0]]))
    before = []
    for start, stop in pairwise(cuts):
        before.append((grown, everything_of(grown)))
        grown = grown.grown(**chosen(arrays, order[start:stop]))
    assert everything_of(grown) == everything_of(ItemIndex.build(**arrays))
    for old, what_it_said in before:
        assert everything_of(old) == what_it_said


@given(SIDS.filter(lambda sids: len(sids) > 2), st.data())
@settings(max_examples=40)
def test_two_growths_of_one_index_do_not_meet(
    sids: list[tuple[int, ...]], data: st.DataObject
) -> None:
    arrays = arrays_of(sids, data)
    first = ItemIndex.build(**chosen(arrays, [0])).grown(**chosen(arrays, [1]))
    rest = list(range(2, len(sids)))
    one, other = first.grown(**chosen(arrays, rest[:1])), first.grown(**chosen(arrays, rest))
    one.set_eligible(arrays["keys"][:2], torch.zeros(2, dtype=torch.bool))
    assert everything_of(other) == everything_of(ItemIndex.build(**arrays))
    assert one.keys_N.tolist() == arrays["keys"][:3].tolist()
    assert first.in_stock_N.tolist() == arrays["in_stock"][:2].tolist()


@pytest.mark.parametrize("keys", [[107, 300], [300, 300]], ids=["known", "twice"])
def test_further_items_must_be_further(keys: list[int]) -> None:
    with pytest.raises(ItemIndexInvalid, match="keys"):
        build([(0,), (1,)]).grown(
            keys=torch.tensor(keys),
            codes=torch.zeros(2, 1, dtype=torch.int16),
            content=torch.zeros(2, 2),
            in_stock=torch.ones(2, dtype=torch.bool),
            scenarios=torch.ones(1, 2, dtype=torch.bool),
        )


def test_masks_of_one_request_leave_the_next_ones_alone() -> None:
    index = build([(0,), (1,)])
    for excluded in ([[100]], [[UNKNOWN]]):
        masks = index.masks(torch.tensor([0]), torch.tensor(excluded))
        assert eligible_of(index, masks) == [[excluded == [[UNKNOWN]], True]]


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
    assert eligible_of(index, masks) == [[True, False, True, False], [True, False, False, True]]


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
