"""The masks of a compiled decoding, run eagerly, close what the index's own masks close."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.decoding.masks import Masks
from models.generator.generator import RankedItems
from models.serving.compiled_decoding import excluded_rows
from models.serving.decoding_program import IndexTensors, TensorIndex, TensorMasks
from tests.models.generator.small_policy import CONTENT_DIM, small_index

DEAD = 2


def masks_of(
    index: ItemIndex, seed: int, requests: int, excluded: int
) -> tuple[Masks, TensorMasks]:
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, len(index.keys_N), (requests, excluded)))
    keys_BE = index.keys_N[rows]
    keys_BE[:, ::7] = UNKNOWN
    scenario_B = torch.from_numpy(rng.integers(0, len(index.scenarios_KN), requests))
    tensors = IndexTensors.of(index, torch.zeros(len(index.keys_N), CONTENT_DIM))
    own = TensorMasks(tensors, scenario_B, excluded_rows(index, keys_BE))
    return index.masks(scenario_B, keys_BE), own


def some_beams(index: ItemIndex, level: int, seed: int, requests: int) -> torch.Tensor:
    """Returns a few distinct nodes of the level for each request, and two of them again: dead beams
    stand behind the live ones and may hold their nodes.
    """
    rng = np.random.default_rng(seed)
    nodes = len(index.levels[level].codes)
    live_BW = torch.from_numpy(np.stack([rng.permutation(nodes)[:5] for _ in range(requests)]))
    return torch.cat([live_BW, live_BW[:, :DEAD]], dim=1)


@given(st.integers(0, 1_000), st.integers(1, 3), st.integers(0, 60))
def test_nodes_are_closed_as_by_the_index(seed: int, requests: int, excluded: int) -> None:
    index = small_index(seed=seed)
    masks, own = masks_of(index, seed, requests, excluded)
    logprobs_BP = -torch.rand(requests, len(index.levels[0].codes))
    assert torch.equal(own.close_roots(logprobs_BP), masks.close_roots(logprobs_BP))
    for level in range(1, index.depth):
        children = index.children(level, some_beams(index, level - 1, seed, requests))
        scores_BWK = -torch.rand(children.nodes_XK.shape)
        scores_BWK.masked_fill_(children.padding_XK, -torch.inf)[:, -DEAD:] = -torch.inf
        found_BWK = own.close(level, scores_BWK, children.nodes_XK)
        assert torch.equal(found_BWK, masks.close(level, scores_BWK, children.nodes_XK))


@given(st.integers(0, 1_000), st.integers(1, 3), st.integers(0, 60))
def test_items_are_left_out_as_by_the_index(seed: int, requests: int, excluded: int) -> None:
    index = small_index(seed=seed)
    masks, own = masks_of(index, seed, requests, excluded)
    leaves_BW = some_beams(index, index.depth - 1, seed, requests)
    places_BWI, rows_BWI, padding_BWI = index.leaf_items(leaves_BW)
    logprobs_BWI = (-torch.rand(rows_BWI.shape)).masked_fill(padding_BWI, -torch.inf)
    ranked = RankedItems(places_BWI, rows_BWI, logprobs_BWI)
    found, wanted = own.among(ranked, leaves_BW), ranked.among(masks.eligible(rows_BWI.flatten(1)))
    live = slice(-DEAD)  # whatever a dead beam's items have, its score is -inf
    assert torch.equal(found.logprobs_BWI[:, live], wanted.logprobs_BWI[:, live])


@given(st.integers(0, 1_000))
def test_levels_and_parents_are_the_index_s(seed: int) -> None:
    index = small_index(seed=seed)
    tensors = IndexTensors.of(index, torch.zeros(len(index.keys_N), CONTENT_DIM))
    for level, parents_P in enumerate(tensors.parents_P):
        nodes = np.arange(len(index.levels[level + 1].codes), dtype=np.int32)
        assert np.array_equal(parents_P.numpy(), index.levels[level].parents(nodes))
        every = torch.arange(len(index.levels[level].codes)).unsqueeze(0)
        found = TensorIndex(tensors).children(level + 1, every)
        for one, other in zip(found, index.children(level + 1, every), strict=True):
            assert torch.equal(one, other)
