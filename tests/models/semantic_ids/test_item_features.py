"""Item features: what they hold, and what new items get."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.semantic_ids.item_features import (
    ItemFeatures,
    ItemFeaturesConfig,
    ItemFeaturesMismatch,
    unit_rows,
)
from models.tensor_file import TensorFileInvalid

CONFIG = ItemFeaturesConfig(text_dim=8, vector_dim=4)
WARM = 200


@pytest.fixture(scope="module")
def texts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return unit_rows(rng.standard_normal((240, 6)) @ rng.standard_normal((6, 12)))


@pytest.fixture(scope="module")
def behaviour(texts: np.ndarray) -> np.ndarray:
    """Behaviour that the text largely tells; the last 40 items have none."""
    rng = np.random.default_rng(1)
    told = texts @ rng.standard_normal((12, 5)) + 0.1 * rng.standard_normal((240, 5))
    return np.where(np.arange(240)[:, None] < WARM, unit_rows(told), 0).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(texts: np.ndarray, behaviour: np.ndarray) -> ItemFeatures:
    return ItemFeatures.fit(texts, behaviour=behaviour, config=CONFIG)


def test_text_has_length_one_and_behaviour_its_weight(
    fitted: ItemFeatures, texts: np.ndarray, behaviour: np.ndarray
) -> None:
    rows = fitted.features(texts, behaviour=behaviour)
    assert rows.shape == (240, fitted.dim) == (240, 8 + 5)
    np.testing.assert_allclose(np.linalg.norm(rows[:, :8], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows[:WARM, 8:], 0.8 * behaviour[:WARM], atol=1e-6)


def test_an_item_without_interactions_gets_the_behaviour_that_its_text_predicts(
    fitted: ItemFeatures, texts: np.ndarray
) -> None:
    rng = np.random.default_rng(1)
    truth = unit_rows(texts @ rng.standard_normal((12, 5)))[WARM:]
    guess = fitted.features(texts[WARM:])[:, 8:] / 0.8
    np.testing.assert_allclose(np.linalg.norm(guess, axis=1), 1, atol=1e-5)
    assert (guess * truth).sum(axis=1).mean() > 0.9
    blank = replace(fitted, config=replace(CONFIG, cold="zero"))
    assert not blank.features(texts[WARM:])[:, 8:].any()


def test_a_new_item_alone_gets_the_feature_it_got_beside_others(
    fitted: ItemFeatures, texts: np.ndarray
) -> None:
    together = fitted.features(texts)
    alone = np.concatenate([fitted.features(row[None]) for row in texts])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_the_projection_keeps_the_cosines_when_nothing_is_cut(texts: np.ndarray) -> None:
    centred = unit_rows(texts - texts.mean(axis=0))
    projected = ItemFeatures.fit(texts, config=CONFIG).features(texts)
    np.testing.assert_allclose(projected @ projected.T, centred @ centred.T, atol=1e-3)


def test_vectors_of_another_modality_stand_beside_the_text_and_may_be_missing(
    texts: np.ndarray,
) -> None:
    vectors = np.random.default_rng(2).standard_normal((240, 9)).astype(np.float32)
    vectors[3] = 0
    fitted = ItemFeatures.fit(texts, vectors=vectors, config=replace(CONFIG, vector_weight=0.5))
    rows = fitted.features(texts, vectors=vectors)
    lengths = np.linalg.norm(rows[:, 8:], axis=1)
    assert lengths[3] == 0
    np.testing.assert_allclose(np.delete(lengths, 3), 0.5, atol=1e-5)
    np.testing.assert_array_equal(fitted.features(texts)[:, :8], rows[:, :8])
    assert not fitted.features(texts)[:, 8:].any()


def test_no_weight_or_no_behaviour_leaves_text_alone(
    texts: np.ndarray, behaviour: np.ndarray
) -> None:
    unweighted = replace(CONFIG, behaviour_weight=0.0)
    assert ItemFeatures.fit(texts, behaviour=behaviour, config=unweighted).dim == 8
    assert ItemFeatures.fit(texts, behaviour=np.zeros((240, 0), "f4"), config=CONFIG).dim == 8


def test_saved_features_give_what_they_gave(
    fitted: ItemFeatures, texts: np.ndarray, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    loaded = ItemFeatures.load(tmp_path)
    assert loaded.config == fitted.config
    np.testing.assert_array_equal(loaded.features(texts), fitted.features(texts))
    with pytest.raises(TensorFileInvalid, match="no file"):
        ItemFeatures.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": np.zeros((2, 5))}, r"text: found shape \(2, 5\), wanted \[n, 12\]"),
        ({"texts": np.full((1, 12), np.nan)}, "text: found NaN"),
        ({"behaviour": np.zeros((1, 3))}, r"behaviour: found shape \(1, 3\), wanted \[n, 5\]"),
    ],
)
def test_inputs_of_another_fit_are_refused_by_name(
    fitted: ItemFeatures, change: dict[str, np.ndarray], message: str
) -> None:
    given = {"texts": np.zeros((1, 12)), **change}
    with pytest.raises(ItemFeaturesMismatch, match=message):
        fitted.features(given.pop("texts"), **given)
