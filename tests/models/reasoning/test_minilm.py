"""The BERT encoder: beside a slow one without batches, and, where they are, on the real weights."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import erf

from models.reasoning.minilm import (
    MINILM_FOLDER,
    EncoderFolderInvalid,
    MiniLmEncoder,
    load_minilm,
)
from tests.models.reasoning.tiny_encoder import (
    CONFIG,
    HEADS,
    LAYERS,
    LONGEST,
    WIDTH,
    WORDS,
    weights,
    write_encoder_folder,
)

TEXTS = ["Red umbrellas!", "tent", "rain for two red tent umbrella", "two two two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder_folder(tmp_path_factory.mktemp("encoder"))


def slowly(ids: list[int]) -> np.ndarray:
    """One text, head by head, in float64: the formulas of the BERT paper."""
    w = {name: tensor.double().numpy() for name, tensor in weights().items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12)
        standard = (x - x.mean(axis=-1, keepdims=True)) / spread
        return np.asarray(standard * w[f"{name}.weight"] + w[f"{name}.bias"])

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = WIDTH // HEADS
    for layer in range(LAYERS):
        at, heads = f"encoder.layer.{layer}", []
        q, k, v = (linear(x, f"{at}.attention.self.{p}") for p in ("query", "key", "value"))
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
        mixed = linear(np.concatenate(heads, axis=1), f"{at}.attention.output.dense")
        x = norm(x + mixed, f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    mean = x.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def test_a_batch_gives_what_each_text_gives_by_the_formulas(folder: Path) -> None:
    encoder = MiniLmEncoder.load(folder)
    number = {word: place for place, word in enumerate(WORDS)}
    tokens = [
        ["red", "umbrella", "##s", "[UNK]"],
        ["tent"],
        ["rain", "for", "two", "red", "tent", "umbrella"],
        ["two", "two", "two"],
    ]
    expected = [slowly([2, *(number[word] for word in words), 3]) for words in tokens]
    found = encoder.encode(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (4, encoder.dim)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_text_without_a_word_is_0_and_a_long_one_is_cut(folder: Path) -> None:
    encoder = MiniLmEncoder.load(folder)
    blank, long, cut = encoder.encode(["", "rain " * 50, "rain " * (LONGEST - 2)])
    assert not blank.any()
    np.testing.assert_array_equal(long, cut)
    assert encoder.encode([]).shape == (0, WIDTH)


def test_the_id_is_that_of_the_contents(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert MiniLmEncoder.load(other).encoder_id == MiniLmEncoder.load(folder).encoder_id
    (other / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 5}))
    assert MiniLmEncoder.load(other).encoder_id != MiniLmEncoder.load(folder).encoder_id


def test_a_saved_copy_is_the_same_encoder(folder: Path, tmp_path: Path) -> None:
    encoder = MiniLmEncoder.load(folder)
    encoder.save(tmp_path / "copy")
    assert MiniLmEncoder.load(tmp_path / "copy").encoder_id == encoder.encoder_id


def test_what_is_no_such_encoder_is_refused_by_what_is_missing(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(EncoderFolderInvalid, match=r"found no config\.json"):
        MiniLmEncoder.load(tmp_path)
    with pytest.raises(EncoderFolderInvalid, match=r"model.safetensors: found sha256 .*, wanted"):
        MiniLmEncoder.load(folder, weights_sha256="0" * 64)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "mpnet"}))
    with pytest.raises(EncoderFolderInvalid, match="found mpnet with gelu, wanted bert with gelu"):
        MiniLmEncoder.load(tmp_path)


@pytest.mark.skipif(not MINILM_FOLDER.is_dir(), reason="no weights: make setup-minilm")
def test_the_real_weights_give_the_numbers_of_sentence_transformers() -> None:
    query, near, far = load_minilm().encode(
        ["a red umbrella for the rain", "waterproof parasol", "kitchen knife"]
    )
    # sentence-transformers 6.2.0, the first six numbers of the first text.
    expected = [-0.00068, 0.06426, 0.01242, 0.09463, 0.06385, 0.03853]
    np.testing.assert_allclose(query[:6], expected, atol=1e-5)
    assert query @ near > query @ far + 0.2
