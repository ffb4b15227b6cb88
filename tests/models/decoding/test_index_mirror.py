"""A mirror holds what its index holds, after every change; padded masks say what masks say.

A copy on the CPU stands for one on a card: nothing in it knows the difference (`-m gpu` tests of
the engine are in tests/models/serving).
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.decoding.index_mirror import FEW_CHILDREN, IndexMirror
from models.decoding.item_index import ItemIndex
from tests.models.generator.small_policy import CODES, CONTENT_DIM, small_index

CPU = torch.device("cpu")


def assert_same(mirror: IndexMirror) -> None:
    host, index = mirror.host, mirror.index
    for name in ("keys_N", "codes_NL", "content_NC", "in_stock_N", "scenarios_KN"):
        assert torch.equal(getattr(index, name), getattr(host, name)), name
        assert getattr(index, name).data_ptr() != getattr(host, name).data_ptr(), name
    for closed, counts in zip(mirror.closed, host.counts, strict=True):
        assert torch.equal(closed, counts == 0)
    for level, other in zip(index.levels, host.levels, strict=True):
        assert torch.equal(level.codes, other.codes)
        assert torch.equal(level.first_child, other.first_child)
        assert torch.equal(level.labels, other.labels)


def changed(index: ItemIndex, seed: int) -> torch.Tensor:
    """Changes stock and scenarios of some items; returns their keys, one of them unknown."""
    rng = np.random.default_rng(seed)
    keys = index.keys_N[torch.from_numpy(rng.integers(0, len(index.keys_N), 9))]
    keys = torch.cat([keys, torch.tensor([-5])])
    shown = torch.from_numpy(rng.random((len(index.scenarios_KN), len(keys))) > 0.4)
    index.set_eligible(keys, torch.from_numpy(rng.random(len(keys)) > 0.5), shown)
    return keys


def further(index: ItemIndex, seed: int) -> ItemIndex:
    rng = np.random.default_rng(seed)
    return index.grown(
        keys=torch.from_numpy(2**62 + rng.permutation(50)[:7]),
        codes=torch.from_numpy(rng.integers(0, CODES, (7, 3))),
        content=torch.from_numpy(rng.standard_normal((7, CONTENT_DIM))),
        in_stock=torch.from_numpy(rng.random(7) > 0.3),
        scenarios=torch.from_numpy(rng.random((3, 7)) > 0.3),
    )


@given(st.integers(0, 1_000))
def test_a_mirror_follows_stock_and_further_items(seed: int) -> None:
    mirror = IndexMirror.copied(small_index(seed=seed), CPU)
    arrays = [closed.data_ptr() for closed in mirror.closed]
    mirror.follow(changed(mirror.host, seed))
    assert_same(mirror)
    assert [closed.data_ptr() for closed in mirror.closed] == arrays  # in place
    mirror = mirror.grown(further(mirror.host, seed))
    assert_same(mirror)
    mirror.follow(changed(mirror.host, seed + 1))
    assert_same(mirror)


@given(st.integers(0, 1_000), st.integers(1, 3), st.integers(0, 40))
def test_padded_masks_say_what_masks_say(seed: int, requests: int, excluded: int) -> None:
    index = small_index(seed=seed)
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, len(index.keys_N), (requests, excluded)))
    keys_BE = index.keys_N[rows]
    scenario_B = torch.from_numpy(rng.integers(0, 3, requests))
    masks = index.masks(scenario_B, keys_BE)
    mirror = IndexMirror.copied(index, CPU)
    for room in (None, requests * excluded + 5):
        found = mirror.masks(scenario_B, keys_BE, room)
        assert torch.equal(found.empty_roots(), masks.empty_roots())
        for level, counts_KP in enumerate(index.counts):
            all_BX = torch.arange(counts_KP.shape[1]).expand(requests, -1)
            assert torch.equal(found.empty(level, all_BX), masks.empty(level, all_BX))
        rows_BN = torch.arange(len(index.keys_N)).expand(requests, -1)
        assert torch.equal(found.eligible(rows_BN), masks.eligible(rows_BN))


@pytest.mark.parametrize("few", [0, FEW_CHILDREN])
@given(st.integers(0, 1_000), st.integers(1, 3), st.integers(0, 60))
def test_padded_masks_close_what_masks_close(
    few: int, seed: int, requests: int, excluded: int
) -> None:
    """Of the children of a few beams; some exclusions have no beam as a parent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.decoding.index_mirror.FEW_CHILDREN", few)
        check_closed(seed, requests, excluded)


def check_closed(seed: int, requests: int, excluded: int) -> None:
    index = small_index(seed=seed)
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, len(index.keys_N), (requests, excluded)))
    scenario_B = torch.from_numpy(rng.integers(0, 3, requests))
    asked = (scenario_B, index.keys_N[rows])
    masks, padded = index.masks(*asked), IndexMirror.copied(index, CPU).masks(*asked)
    logprobs_BP = -torch.rand(requests, len(index.levels[0].codes))
    assert torch.equal(padded.close_roots(logprobs_BP), masks.close_roots(logprobs_BP))
    for level in range(1, index.depth):
        above = len(index.levels[level - 1].codes)
        beams = [rng.permutation(above)[:3] for _ in range(requests)]
        children = index.children(level, torch.from_numpy(np.stack(beams)))
        nodes_BX = children.nodes_XK.flatten(1)
        scores_BX = (-torch.rand(children.nodes_XK.shape)).masked_fill(
            children.padding_XK, -torch.inf
        )
        found, wanted = (
            one.close(level, scores_BX.flatten(1).clone(), nodes_BX) for one in (padded, masks)
        )
        assert torch.equal(found, wanted)


def test_on_the_cpu_the_mirror_is_the_index() -> None:
    index = small_index()
    mirror = IndexMirror.of(index, CPU)
    assert mirror.index is index
    grown = further(index, 1)
    assert mirror.grown(grown).index is grown
    mirror.follow(index.keys_N[:3])
