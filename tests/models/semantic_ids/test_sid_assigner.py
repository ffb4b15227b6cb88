"""Which SID an item gets: the one it was trained with, or the one its text leads to."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.item_features import ItemFeatures, ItemFeaturesConfig
from models.semantic_ids.sid_assigner import SidAssigner
from models.tensor_file import TensorFileInvalid

RNG = np.random.default_rng(0)
TEXTS = RNG.standard_normal((40, 12)).astype(np.float32)
BEHAVIOUR = RNG.standard_normal((40, 5)).astype(np.float32)
KEYS = RNG.permutation(1_000)[:40].astype(np.int64)


@pytest.fixture(scope="module")
def features() -> ItemFeatures:
    config = ItemFeaturesConfig(text_dim=8)
    return ItemFeatures.fit(TEXTS[:30], behaviour=BEHAVIOUR[:30], config=config)


@pytest.fixture(scope="module")
def codebooks(features: ItemFeatures) -> Codebooks:
    centroids = np.random.default_rng(1).standard_normal((3, 16, features.dim))
    return Codebooks(centroids=centroids.astype(np.float32))


@pytest.fixture(scope="module")
def fitted(features: ItemFeatures, codebooks: Codebooks) -> npt.NDArray[np.int16]:
    """The SIDs of the first 30 items, whose behaviour was known."""
    return codebooks.assign(features.features(TEXTS[:30], behaviour=BEHAVIOUR[:30]))


def test_items_of_the_fit_keep_the_sids_they_were_trained_with(
    features: ItemFeatures, codebooks: Codebooks, fitted: npt.NDArray[np.int16], tmp_path: Path
) -> None:
    SidAssigner.of_fit(codebooks, features, KEYS[:30], fitted).save(tmp_path)
    assigner = SidAssigner.load(tmp_path)
    order = np.random.default_rng(2).permutation(40)
    found = assigner.assign(KEYS[order].tolist(), TEXTS[order])
    by_text = codebooks.assign(features.features(TEXTS))
    wanted = np.concatenate([fitted, by_text[30:]])
    np.testing.assert_array_equal(found, wanted[order])
    assert (by_text[:30] != fitted).any()  # else the table would not be needed


def test_without_features_the_text_itself_is_quantised(tmp_path: Path) -> None:
    centroids = RNG.standard_normal((3, 16, TEXTS.shape[1])).astype(np.float32)
    codebooks = Codebooks(centroids=centroids)
    SidAssigner(codebooks=codebooks).save(tmp_path)
    found = SidAssigner.load(tmp_path).assign(KEYS.tolist(), TEXTS)
    np.testing.assert_array_equal(found, codebooks.assign(TEXTS))


def test_features_without_the_sids_of_their_fit_are_refused(
    features: ItemFeatures, codebooks: Codebooks, fitted: npt.NDArray[np.int16], tmp_path: Path
) -> None:
    SidAssigner.of_fit(codebooks, features, KEYS[:30], fitted).save(tmp_path)
    (tmp_path / "fitted_sids.safetensors").unlink()
    with pytest.raises(TensorFileInvalid, match="fitted_sids"):
        SidAssigner.load(tmp_path)
