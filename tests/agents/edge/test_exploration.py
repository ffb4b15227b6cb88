"""The explored slot: never the first, at most one, drawn with the probabilities that are logged."""

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.edge.exploration import MAX_CANDIDATES, ExplorationConfig, explores, place, softmax
from schemas.generation import GeneratedItem


def ranked(count: int) -> list[GeneratedItem]:
    return [
        GeneratedItem(item_key=key, sid=[key], logprobs=[-0.1 * key], score=-0.1 * key)
        for key in range(count)
    ]


@given(
    count=st.integers(0, 120),
    num_items=st.integers(1, 30),
    temperature=st.floats(0.01, 100),
    seed=st.integers(0, 10_000),
)
def test_a_slate_holds_distinct_items_and_all_but_the_explored_slot_by_rank(
    count: int, num_items: int, temperature: float, seed: int
) -> None:
    slate, exploration = place(ranked(count), num_items, temperature, Random(seed))
    keys = [item.item_key for item in slate]
    assert len(keys) == min(count, num_items) == len(set(keys))
    if exploration is None:
        assert keys == list(range(len(keys)))
        assert len(keys) < 2 or count == len(keys)
        return
    assert 1 <= exploration.position < len(keys)
    drawn = keys.pop(exploration.position)
    assert keys == list(range(len(keys)))
    assert drawn == exploration.candidate_keys[exploration.chosen]
    assert len(exploration.candidate_keys) <= MAX_CANDIDATES
    assert not set(exploration.candidate_keys) & set(keys)
    assert math.isclose(math.fsum(exploration.probabilities), 1.0)


def test_the_logged_probabilities_are_the_ones_drawn_with() -> None:
    rng = Random(7)
    drawn: Counter[int] = Counter()
    expected: list[float] = []
    for _ in range(20_000):
        _, exploration = place(ranked(8), 3, 1.0, rng)
        assert exploration is not None
        drawn[exploration.chosen] += 1
        expected = exploration.probabilities
    for index, probability in enumerate(expected):
        assert drawn[index] / 20_000 == pytest.approx(probability, abs=0.015)


def test_the_item_that_gave_way_is_a_candidate() -> None:
    _, exploration = place(ranked(8), 3, 1.0, Random(1))
    assert exploration is not None
    assert exploration.candidate_keys[0] == 2


def test_the_share_of_explored_requests_is_the_configured_one() -> None:
    rng = Random(3)
    config = ExplorationConfig(share=0.2)
    explored = sum(explores(config, rng) for _ in range(5_000))
    assert explored / 5_000 == pytest.approx(0.2, abs=0.02)


def test_no_share_explores_nothing() -> None:
    config = ExplorationConfig(share=0.0)
    assert not any(explores(config, Random(seed)) for seed in range(200))


def test_softmax_survives_large_scores_and_follows_the_temperature() -> None:
    assert softmax([1e6, 1e6 - 1], 1.0) == pytest.approx([1 / (1 + math.exp(-1)), 0.2689414])
    assert softmax([0.0, -1.0], 1e9) == pytest.approx([0.5, 0.5])
