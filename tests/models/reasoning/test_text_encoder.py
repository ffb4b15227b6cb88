"""The built-in text encoder."""

import time
from pathlib import Path

import numpy as np
import pytest

from models.reasoning.text_encoder import (
    CharacterEncoder,
    CharacterEncoderConfig,
    TextEncoderUnfit,
)
from models.tensor_file import TensorFileInvalid, write_tensors

NOUNS = ["umbrella", "raincoat", "sunscreen", "tent", "kettle", "headphones", "notebook", "lamp"]
STYLES = ["red", "compact", "waterproof", "classic", "travel", "premium"]
TEXTS = [f"{style} {noun}" for style in STYLES for noun in NOUNS] + ["warm rain boots"]


@pytest.fixture(scope="module")
def encoder() -> CharacterEncoder:
    return CharacterEncoder.fit(TEXTS)


def test_rows_have_length_one_and_texts_with_nothing_known_length_zero(
    encoder: CharacterEncoder,
) -> None:
    rows = encoder.encode(["red umbrella", "Umbrellas!", "", "zzqq", "x"])
    assert rows.dtype == np.float32
    assert rows.shape == (5, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 0, 0], atol=1e-5)


def test_inflections_and_case_stay_near_and_other_words_far(encoder: CharacterEncoder) -> None:
    base, near, shout, far = encoder.encode(["umbrella", "umbrellas", "UMBRELLA", "headphones"])
    assert base @ near > 0.7
    assert base @ shout == pytest.approx(1.0, abs=1e-5)
    assert abs(base @ far) < 0.2


def test_equal_texts_in_any_order_give_an_equal_encoder(encoder: CharacterEncoder) -> None:
    again = CharacterEncoder.fit([*TEXTS[::-1], TEXTS[0]])
    assert again.encoder_id == encoder.encoder_id
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert CharacterEncoder.fit(TEXTS[:-1]).encoder_id != encoder.encoder_id


def test_a_saved_encoder_is_the_same_after_loading(
    encoder: CharacterEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    loaded = CharacterEncoder.load(tmp_path)
    assert loaded.encoder_id == encoder.encoder_id
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))


def test_files_of_two_encoders_are_refused(encoder: CharacterEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    with pytest.raises(TensorFileInvalid, match="no file"):
        CharacterEncoder.load(tmp_path / "elsewhere")
    idf = np.ones(3, dtype=np.float32)
    write_tensors(
        tmp_path / "text_encoder.safetensors", {"idf": idf, "components": np.ones((3, 2), "f4")}
    )
    with pytest.raises(TensorFileInvalid, match=encoder.encoder_id):
        CharacterEncoder.load(tmp_path)


def test_the_dimension_is_bounded_by_the_config_and_by_the_corpus() -> None:
    assert CharacterEncoder.fit(TEXTS, CharacterEncoderConfig(dim=8)).dim == 8
    assert CharacterEncoder.fit(TEXTS[:5]).dim <= 5


def test_the_projection_keeps_the_cosines_of_the_corpus_when_nothing_is_cut() -> None:
    whole = CharacterEncoder.fit(TEXTS)
    cut = CharacterEncoder.fit(TEXTS, CharacterEncoderConfig(dim=12))
    cosines, approximate = (e.encode(TEXTS) @ e.encode(TEXTS).T for e in (whole, cut))
    nouns = np.array([text.split()[-1] for text in TEXTS])
    same = nouns[:, None] == nouns[None, :]
    assert cosines[same].mean() > cosines[~same].mean() + 0.3
    assert approximate[same].mean() > approximate[~same].mean() + 0.3


@pytest.mark.parametrize("texts", [[], ["umbrella"], ["", "!!"], ["umbrella", "umbrella"]])
def test_too_little_to_fit_on_is_refused(texts: list[str]) -> None:
    with pytest.raises(TextEncoderUnfit, match="at least 2"):
        CharacterEncoder.fit(texts)


def test_a_long_text_costs_no_more_than_the_longest_title(encoder: CharacterEncoder) -> None:
    start = time.thread_time()
    encoder.encode(["umbrella " * 100_000])
    assert time.thread_time() - start < 0.5
