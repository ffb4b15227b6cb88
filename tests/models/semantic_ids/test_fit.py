"""The whole fit: text, behaviour, alignment and codebooks together."""

from dataclasses import replace

import numpy as np
import pytest

from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.alignment import AlignmentConfig, NothingToAlign
from models.semantic_ids.cooccurrence import (
    Behaviour,
    CooccurrenceConfig,
    count_pairs,
    count_queries,
)
from models.semantic_ids.fit import STAGES, FittedSemanticIds, SemanticIdsConfig, fit_semantic_ids
from models.semantic_ids.item_features import ItemFeaturesConfig
from models.semantic_ids.item_table import Items
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig
from tests.models.semantic_ids.small_catalogue import CATALOGUE, NOUNS, STYLES, TITLES

CONFIG = SemanticIdsConfig(
    features=ItemFeaturesConfig(text_dim=16),
    cooccurrence=CooccurrenceConfig(dim=6),
    codebooks=ResidualKMeansConfig(levels=2, codes=len(STYLES), iterations=20),
    alignment=AlignmentConfig(hidden=16, steps=5, batch=32),
)


@pytest.fixture(scope="module")
def encoder() -> CharacterEncoder:
    return CharacterEncoder.fit(TITLES)


@pytest.fixture(scope="module")
def behaviour() -> Behaviour:
    """Users keep to one style: what they choose together shares no noun."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 6)
    items = (users % len(STYLES)) * len(NOUNS) + rng.integers(0, len(NOUNS), len(users))
    queries = count_queries(np.arange(len(TITLES)), np.arange(len(TITLES)) % 8, (len(TITLES), 8))
    pairs = count_pairs(users, items, len(TITLES), 5)
    return Behaviour(pairs=pairs, queries=queries, query_texts=NOUNS, interactions=len(items))


def fit(
    config: SemanticIdsConfig, behaviour: Behaviour | None, encoder: CharacterEncoder
) -> FittedSemanticIds:
    return fit_semantic_ids(CATALOGUE, behaviour, encoder, config, lambda *so_far: None)


def test_every_stage_is_told_to_its_end(behaviour: Behaviour, encoder: CharacterEncoder) -> None:
    told: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        told[stage] = (done, total)

    fit_semantic_ids(CATALOGUE, behaviour, encoder, CONFIG, progress)
    assert tuple(told) == STAGES
    assert all(done == total > 0 for done, total in told.values())


def test_equal_input_gives_equal_semantic_ids(
    behaviour: Behaviour, encoder: CharacterEncoder
) -> None:
    first, again = (fit(CONFIG, behaviour, encoder) for _ in range(2))
    np.testing.assert_array_equal(first.items.sids, again.items.sids)
    np.testing.assert_array_equal(first.codebooks.centroids, again.codebooks.centroids)


def test_what_is_chosen_together_shares_a_first_code_that_words_alone_would_not_give(
    behaviour: Behaviour, encoder: CharacterEncoder
) -> None:
    styles = np.arange(len(TITLES)) // len(NOUNS)
    same_style = (styles[:, None] == styles[None, :]) & ~np.eye(len(TITLES), dtype=bool)
    agreement = []
    for weight in (0.0, 3.0):
        features = replace(CONFIG.features, behaviour_weight=weight)
        config = replace(CONFIG, features=features, alignment=None)
        without_queries = replace(behaviour, queries=None, query_texts=[])
        first = fit(config, without_queries, encoder).items.sids[:, 0]
        agreement.append((first[:, None] == first[None, :])[same_style].mean())
    assert agreement[1] > agreement[0] + 0.2


def test_vectors_of_the_items_are_part_of_the_feature(encoder: CharacterEncoder) -> None:
    vectors = np.random.default_rng(0).standard_normal((len(TITLES), 5)).astype(np.float32)
    seen = Items(
        item_ids=CATALOGUE.item_ids,
        texts=CATALOGUE.texts,
        categories=CATALOGUE.categories,
        vectors=vectors,
    )
    config = replace(CONFIG, alignment=None)
    found = fit_semantic_ids(seen, None, encoder, config, lambda *so_far: None)
    width = fit(config, None, encoder).features.dim
    assert found.features.dim == width + 5
    assert found.codebooks.centroids.shape == (2, 6, width + 5)


def test_an_alignment_without_behaviour_is_refused(encoder: CharacterEncoder) -> None:
    with pytest.raises(NothingToAlign, match="give interactions or queries"):
        fit(CONFIG, None, encoder)
