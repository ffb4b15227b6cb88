"""Contrastive alignment: its loss beside a loop, and what it is for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from models.semantic_ids.alignment import (
    AlignmentConfig,
    NothingToAlign,
    Pairs,
    info_nce,
    pairs_of,
    train_alignment,
)
from models.semantic_ids.cooccurrence import count_queries
from models.semantic_ids.item_features import ItemFeatures, ItemFeaturesConfig, unit_rows

CONFIG = AlignmentConfig(hidden=32, steps=150, batch=64, learning_rate=1e-2)
ITEMS, DIM = 60, 16


@pytest.fixture(scope="module")
def texts() -> np.ndarray:
    """Six groups of ten: the text shows the group in directions that much else drowns."""
    rng = np.random.default_rng(0)
    groups = 0.3 * rng.standard_normal((6, DIM))
    return unit_rows(groups[np.arange(ITEMS) % 6] + rng.standard_normal((ITEMS, DIM)) * 0.5)


@pytest.fixture(scope="module")
def chosen() -> csr_matrix:
    groups = np.arange(ITEMS) % 6
    together = (groups[:, None] == groups[None, :]) & ~np.eye(ITEMS, dtype=bool)
    return csr_matrix(together.astype(float))


def none() -> np.ndarray:
    return np.zeros((0, DIM), dtype=np.float32)


def aligned(texts: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """By the numpy side, whose PCA is left out."""
    identity = {"mean": np.zeros(DIM, "f4"), "axes": np.eye(DIM, dtype=np.float32)}
    features = ItemFeatures(config=ItemFeaturesConfig(), text=identity, alignment=weights)
    return features.projected_texts(texts)


def test_the_loss_is_the_mean_of_both_directions_without_the_twins_of_a_pair() -> None:
    rng = np.random.default_rng(0)
    left, right = (unit_rows(rng.standard_normal((4, 3))) for _ in range(2))
    anchors, items = [0, 1, 0, 2], [5, 6, 7, 6]  # rows 0 and 2 share an anchor, 1 and 3 an item
    config = AlignmentConfig(temperature=0.5)
    total = 0.0
    for row in range(4):
        for scores in (left[row] @ right.T / 0.5, right[row] @ left.T / 0.5):
            others = [
                other
                for other in range(4)
                if other == row or (anchors[other] != anchors[row] and items[other] != items[row])
            ]
            total += math.log(sum(math.exp(scores[other]) for other in others)) - scores[row]
    found = info_nce(
        torch.from_numpy(left),
        torch.from_numpy(right),
        torch.tensor(anchors),
        torch.tensor(items),
        config,
    )
    assert float(found) == pytest.approx(total / 8, rel=1e-5)


def test_what_is_chosen_together_comes_together(texts: np.ndarray, chosen: csr_matrix) -> None:
    weights, losses = train_alignment(texts, none(), pairs_of(chosen, None), CONFIG)
    assert np.mean(losses[-10:]) < losses[0] - 0.3
    together = chosen.toarray() > 0
    gaps = []
    for rows in (texts, aligned(texts, weights)):
        cosines = rows @ rows.T
        gaps.append(cosines[together].mean() - cosines[~together].mean())
    assert gaps[1] > gaps[0] + 0.2


def test_equal_seeds_give_equal_weights_and_others_others(
    texts: np.ndarray, chosen: csr_matrix
) -> None:
    short = AlignmentConfig(hidden=8, steps=3, batch=16)
    pairs = pairs_of(chosen, None)
    first, again = (train_alignment(texts, none(), pairs, short)[0] for _ in range(2))
    other = train_alignment(texts, none(), pairs, replace(short, seed=1))
    for name, weights in first.items():
        np.testing.assert_array_equal(weights, again[name])
    assert not np.array_equal(first["hidden"], other[0]["hidden"])


def test_a_query_comes_near_its_items(texts: np.ndarray) -> None:
    said = unit_rows(np.random.default_rng(5).standard_normal((6, DIM)))
    found = count_queries(np.arange(ITEMS), np.arange(ITEMS) % 6, (ITEMS, 6))
    pairs = pairs_of(csr_matrix((ITEMS, ITEMS)), found)
    assert pairs.left.min() == ITEMS  # queries count on after the items
    weights, _ = train_alignment(texts, said, pairs, CONFIG)
    before, after = (
        float((rows[:ITEMS] * np.tile(rows[ITEMS:], (10, 1))).sum(axis=1).mean())
        for rows in (np.concatenate([texts, said]), aligned(np.concatenate([texts, said]), weights))
    )
    assert after > before + 0.3


def test_each_pair_counts_once_with_its_weight() -> None:
    pairs = pairs_of(csr_matrix(np.array([[0.0, 2, 0], [2, 0, 0.5], [0, 0.5, 0]])), None)
    found = dict(zip(zip(pairs.left, pairs.right, strict=True), pairs.weight, strict=True))
    assert found == {(0, 1): 2.0, (1, 2): 0.5}


def test_nothing_chosen_together_is_refused(texts: np.ndarray) -> None:
    empty = Pairs(left=np.zeros(0, int), right=np.zeros(0, int), weight=np.zeros(0))
    with pytest.raises(NothingToAlign, match="found 0"):
        train_alignment(texts, none(), empty, CONFIG)
