"""RQ-KMeans and frozen assignment."""

from pathlib import Path

import numpy as np
import pytest

from models.semantic_ids.assignment import Codebooks, EmbeddingsMismatch
from models.semantic_ids.residual_kmeans import (
    CodebookConfigInvalid,
    ResidualKMeansConfig,
    fit_codebooks,
)

CONFIG = ResidualKMeansConfig(codes=8, iterations=10)


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((6, 16)) * 3
    return np.stack([centres[n % 6] + rng.standard_normal(16) for n in range(300)])


@pytest.fixture(scope="module")
def codebooks(embeddings: np.ndarray) -> Codebooks:
    return fit_codebooks(embeddings, CONFIG)


def nearest_one_by_one(codebooks: Codebooks, embedding: np.ndarray) -> list[int]:
    residual, codes = embedding.astype(np.float64), []
    for centroids in codebooks.centroids.astype(np.float64):
        distances = [float(((residual - c) ** 2).sum()) for c in centroids]
        codes.append(int(np.argmin(distances)))
        residual = residual - centroids[codes[-1]]
    return codes


def test_each_level_takes_the_nearest_code_of_the_residual(
    codebooks: Codebooks, embeddings: np.ndarray
) -> None:
    sids = codebooks.assign(embeddings)
    assert sids.dtype == np.int16
    assert sids.tolist() == [nearest_one_by_one(codebooks, row) for row in embeddings]


def test_the_same_input_gives_the_same_codebooks(
    codebooks: Codebooks, embeddings: np.ndarray
) -> None:
    again = fit_codebooks(embeddings, CONFIG)
    np.testing.assert_array_equal(again.centroids, codebooks.centroids)


def test_an_item_alone_gets_the_codes_it_got_in_a_batch(
    codebooks: Codebooks, embeddings: np.ndarray
) -> None:
    alone = np.concatenate([codebooks.assign(row[None]) for row in embeddings])
    np.testing.assert_array_equal(alone, codebooks.assign(embeddings))


def test_every_level_leaves_less_of_the_embedding(embeddings: np.ndarray) -> None:
    left = []
    for levels in (1, 2, 3):
        config = ResidualKMeansConfig(codes=8, iterations=10, levels=levels)
        left.append(float(fit_codebooks(embeddings, config).quantise(embeddings)[1].sum()))
    assert left[0] > left[1] > left[2]


def test_saved_codebooks_assign_as_before(
    codebooks: Codebooks, embeddings: np.ndarray, tmp_path: Path
) -> None:
    codebooks.save(tmp_path)
    loaded = Codebooks.load(tmp_path)
    np.testing.assert_array_equal(loaded.assign(embeddings), codebooks.assign(embeddings))
    assert (loaded.levels, loaded.codes) == (3, 8)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_catalogue_smaller_than_the_codebook_is_stored_exactly(copies: int) -> None:
    items = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    small = fit_codebooks(np.concatenate([items] * copies), CONFIG)
    sids = small.assign(items)
    assert len(np.unique(sids[:, 0])) == 5
    np.testing.assert_allclose(small.quantise(items)[1], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\), wanted \[n, 16\]"),
        (np.zeros(16), "shape"),
        (np.full((1, 16), np.nan), "NaN"),
    ],
)
def test_embeddings_of_another_encoder_are_refused(
    codebooks: Codebooks, broken: np.ndarray, message: str
) -> None:
    with pytest.raises(EmbeddingsMismatch, match=message):
        codebooks.assign(broken)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (ResidualKMeansConfig(codes=0), "codes"),
        (ResidualKMeansConfig(levels=0), "levels"),
        (ResidualKMeansConfig(points_per_code=0), "points_per_code"),
    ],
)
def test_impossible_sizes_are_refused_by_name(config: ResidualKMeansConfig, field: str) -> None:
    with pytest.raises(CodebookConfigInvalid, match=field):
        fit_codebooks(np.zeros((3, 2)), config)


def test_the_squared_error_is_what_the_sum_of_the_centroids_leaves(
    codebooks: Codebooks, embeddings: np.ndarray
) -> None:
    sids, errors = codebooks.quantise(embeddings)
    for sid, error, embedding in zip(sids, errors, embeddings, strict=True):
        rebuilt = sum(codebooks.centroids[level, code] for level, code in enumerate(sid))
        assert error == pytest.approx(float(((embedding - rebuilt) ** 2).sum()), rel=1e-4)


def test_a_large_catalogue_is_learnt_from_a_sample_and_assigned_in_full(
    embeddings: np.ndarray,
) -> None:
    many = np.concatenate([embeddings] * 4)
    config = ResidualKMeansConfig(codes=8, iterations=10, points_per_code=25)
    sampled, again = fit_codebooks(many, config), fit_codebooks(many, config)
    np.testing.assert_array_equal(sampled.centroids, again.centroids)
    whole = fit_codebooks(many, ResidualKMeansConfig(codes=8, iterations=10))
    assert not np.array_equal(sampled.centroids, whole.centroids)
    energy = float((many**2).sum())
    lost = [float(c.quantise(many)[1].sum()) / energy for c in (sampled, whole)]
    assert lost[1] < lost[0] < lost[1] + 0.05


def test_progress_is_told_for_each_level_and_each_chunk(embeddings: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    fitted = fit_codebooks(embeddings, CONFIG, lambda *so_far: told.append(so_far))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    fitted.quantise(np.concatenate([embeddings] * 4), lambda *so_far: told.append(so_far))
    assert told == [(256 * chunk, 1_200) for chunk in range(1, 5)] + [(1_200, 1_200)]
