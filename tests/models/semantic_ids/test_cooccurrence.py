"""Co-occurrence counts and their vectors, beside plain loops."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from models.semantic_ids.cooccurrence import (
    DENSE_BELOW,
    CooccurrenceConfig,
    behaviour_vectors,
    count_pairs,
    count_queries,
    ppmi,
)

USERS = np.array([0, 0, 0, 0, 1, 1, 2])
ITEMS = np.array([3, 1, 3, 2, 2, 1, 0])


def pairs_one_by_one(users: np.ndarray, items: np.ndarray, size: int, window: int) -> np.ndarray:
    counts = np.zeros((size, size))
    for a in range(len(items)):
        for b in range(len(items)):
            near = a != b and abs(a - b) <= window
            if near and users[a] == users[b] and items[a] != items[b]:
                counts[items[a], items[b]] += 1 / abs(a - b)
    return counts


@pytest.mark.parametrize("window", [1, 2, 5])
def test_pairs_are_counted_inside_a_user_by_one_over_their_distance(window: int) -> None:
    counts = count_pairs(USERS, ITEMS, 4, window).toarray()
    np.testing.assert_allclose(counts, pairs_one_by_one(USERS, ITEMS, 4, window))
    assert counts[0].sum() == 0  # alone in its sequence


def test_ppmi_is_the_positive_log_of_seen_over_expected() -> None:
    counts = np.array([[0, 8, 1], [8, 0, 1], [1, 1, 0]], dtype=float)
    found = ppmi(csr_matrix(counts), 0.75).toarray()
    contexts = counts.sum(axis=0) ** 0.75
    for a in range(3):
        for c in range(3):
            expected = counts[a].sum() / 20 * contexts[c] / contexts.sum()
            gain = math.log(counts[a, c] / 20 / expected) if counts[a, c] else 0
            assert found[a, c] == pytest.approx(max(0, gain))


def two_groups(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Users who choose among the even items, and users who choose among the odd ones."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(3 * size), 4)
    items = 2 * rng.integers(0, (size - 2) // 2, len(users)) + users % 2
    return users, items


@pytest.mark.parametrize("size", [40, DENSE_BELOW + 100], ids=["dense", "sparse"])
def test_items_chosen_together_have_near_vectors_and_equal_counts_equal_ones(size: int) -> None:
    config = CooccurrenceConfig(dim=16)
    counts = count_pairs(*two_groups(size), size, config.window)
    vectors = behaviour_vectors(counts, None, config)
    np.testing.assert_array_equal(vectors, behaviour_vectors(counts, None, config))
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths[:-2], 1, atol=1e-5)
    assert lengths[-2:].tolist() == [0, 0]  # never chosen
    cosines = vectors @ vectors.T
    together, apart = cosines[0:-2:2, 0:-2:2].mean(), cosines[0:-2:2, 1:-2:2].mean()
    assert together > apart + 0.05


def test_an_item_found_by_a_query_alone_has_a_vector_near_those_of_that_query() -> None:
    config = CooccurrenceConfig(dim=4)
    pairs = count_pairs(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]), 6, config.window)
    queries = count_queries(np.array([0, 1, 4, 2, 3]), np.array([0, 0, 0, 1, 1]), (6, 2))
    vectors = behaviour_vectors(pairs, queries, config)
    assert vectors[4] @ vectors[0] > 0.5
    assert abs(vectors[4] @ vectors[2]) < 0.1
    assert not vectors[5].any()
    assert not behaviour_vectors(pairs, None, config)[4].any()


def test_nothing_chosen_gives_vectors_without_dimensions() -> None:
    assert behaviour_vectors(csr_matrix((3, 3)), None, CooccurrenceConfig()).shape == (3, 0)
