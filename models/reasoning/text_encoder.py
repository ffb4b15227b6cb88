"""Texts to unit vectors: TF-IDF over character n-grams, projected by a truncated SVD. numpy and
scipy only.

Word-bounded n-grams ("_umbrella_" gives "_um", "umb", ...) forgive inflections and spelling. The
encoder is fitted once a generation, on titles, categories and queries, and then frozen: a vector is
only valid beside others of the same `encoder_id`. One short text takes about 0.1 ms.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from models.tensor_file import TensorFileInvalid, read_tensors, write_tensors
from schemas.errors import OxygenRecError

Floats = npt.NDArray[np.float32]

FILE_STEM = "text_encoder"
MAX_TEXT = 2_000  # the longest title on the wire; a longer text costs time and says nothing new
SMALL_CORPUS = 2_000
SMALLEST_SHARE = 1e-6  # singular values below this share of the largest are rounding
_WORD = re.compile(r"\w+")


class TextEncoderUnfit(OxygenRecError):
    """The texts hold too little to fit an encoder on."""

    def __init__(self, *, texts: int, features: int) -> None:
        self.texts = texts
        self.features = features
        super().__init__(
            f"text encoder: found {texts} texts with {features} known n-grams, wanted at least 2"
            " different texts; fit on titles, categories and queries together"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterEncoderConfig:
    """`dim` is the upper bound: a corpus of fewer independent texts has fewer dimensions."""

    shortest: int = 3
    longest: int = 5
    max_features: int = 16_384  # the most frequent n-grams: 16 MiB of components at 256 dimensions
    dim: int = 256
    seed: int = 0


class CharacterEncoder:
    """The built-in text encoder, behind `agents.ports.TextEncoder`."""

    def __init__(
        self,
        config: CharacterEncoderConfig,
        vocabulary: Sequence[str],
        idf: Floats,
        components: Floats,
    ) -> None:
        """Takes fitted parameters: `idf` [F] and `components` [F, dim] for the F n-grams of
        `vocabulary`.
        """
        self._config = config
        self._vocabulary = list(vocabulary)
        self._feature_of = {gram: number for number, gram in enumerate(vocabulary)}
        self._idf = idf
        self._components = components
        self._encoder_id = self._hash()

    @classmethod
    def fit(cls, texts: Sequence[str], config: CharacterEncoderConfig | None = None) -> Self:
        """Returns an encoder fitted on the distinct `texts`; equal texts and config give an equal
        encoder.

        Raises `TextEncoderUnfit` when fewer than two texts differ.
        """
        config = config or CharacterEncoderConfig()
        counts = [Counter(_grams(text, config)) for text in sorted(set(texts))]
        documents = Counter(gram for count in counts for gram in count)
        # Most frequent first, then alphabetical: the cut at max_features does not depend on the
        # order of texts.
        kept = sorted(documents, key=lambda gram: (-documents[gram], gram))[: config.max_features]
        if len(counts) < 2 or len(kept) < 2:
            raise TextEncoderUnfit(texts=len(counts), features=len(kept))
        frequency = np.array([documents[gram] for gram in kept], dtype=np.float64)
        idf = (np.log((1 + len(counts)) / (1 + frequency)) + 1).astype(np.float32)
        weights = _tfidf(counts, {gram: number for number, gram in enumerate(kept)}, idf)
        return cls(config, kept, idf, _right_singular_vectors(weights, config))

    @property
    def encoder_id(self) -> str:
        """A hash of every parameter."""
        return self._encoder_id

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self._components.shape[1])

    def encode(self, texts: Sequence[str]) -> Floats:
        """Returns [len(texts), dim] float32 rows of length 1 (0 for a text with nothing known in
        it).
        """
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            counts = Counter(_grams(text, self._config))
            features = [self._feature_of[gram] for gram in counts if gram in self._feature_of]
            if features:
                term = np.array([counts[self._vocabulary[f]] for f in features], dtype=np.float32)
                vector = ((1 + np.log(term)) * self._idf[features]) @ self._components[features]
                row[:] = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return rows

    def save(self, folder: Path) -> None:
        """Writes `text_encoder.json` and `text_encoder.safetensors` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        about = {"config": asdict(self._config), "vocabulary": self._vocabulary}
        about["encoder_id"] = self._encoder_id
        write_tensors(
            folder / f"{FILE_STEM}.safetensors", {"idf": self._idf, "components": self._components}
        )
        (folder / f"{FILE_STEM}.json").write_text(json.dumps(about, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns the encoder saved in `folder`. Raises `TensorFileInvalid` when its files do not
        belong together.
        """
        path = folder / f"{FILE_STEM}.json"
        if not path.is_file():
            raise TensorFileInvalid(path=path, found="no file", wanted="a saved text encoder")
        about = json.loads(path.read_text())
        tensors = read_tensors(folder / f"{FILE_STEM}.safetensors", require=("idf", "components"))
        config = CharacterEncoderConfig(**about["config"])
        encoder = cls(config, about["vocabulary"], tensors["idf"], tensors["components"])
        if encoder.encoder_id != about["encoder_id"]:
            raise TensorFileInvalid(
                path=path, found=f"encoder {about['encoder_id']}", wanted=encoder.encoder_id
            )
        return encoder

    def _hash(self) -> str:
        digest = blake2b(digest_size=8)
        digest.update(json.dumps([asdict(self._config), self._vocabulary]).encode())
        digest.update(self._idf.tobytes() + self._components.tobytes())
        return f"characters-{digest.hexdigest()}"


def _grams(text: str, config: CharacterEncoderConfig) -> Iterator[str]:
    for word in _WORD.findall(text[:MAX_TEXT].lower()):
        bounded = f"_{word}_"
        for size in range(config.shortest, config.longest + 1):
            for start in range(len(bounded) - size + 1):
                yield bounded[start : start + size]


def _tfidf(counts: Sequence[Counter[str]], feature_of: dict[str, int], idf: Floats) -> csr_matrix:
    """Returns [texts, F]: (1 + log tf) * idf, rows of length 1, as `encode` weighs them."""
    rows, columns, values = [], [], []
    for row, count in enumerate(counts):
        for gram, times in count.items():
            if (feature := feature_of.get(gram)) is not None:
                rows.append(row)
                columns.append(feature)
                values.append((1 + np.log(times)) * idf[feature])
    matrix = csr_matrix((values, (rows, columns)), shape=(len(counts), len(idf)), dtype=np.float64)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = 1 / np.maximum(lengths, 1e-12)
    return csr_matrix(matrix.multiply(scale[:, None]))


def _right_singular_vectors(weights: csr_matrix, config: CharacterEncoderConfig) -> Floats:
    """Returns [F, dim] float32, largest singular value first; the sign makes the largest entry
    positive.
    """
    if weights.shape[0] > max(SMALL_CORPUS, config.dim + 1):
        start = np.random.default_rng(config.seed).standard_normal(min(weights.shape))
        _, values, vectors = svds(weights, k=config.dim, v0=start)
    else:  # few texts: the eigenvectors of their Gram matrix give the same in a tenth of the time
        squares, texts = np.linalg.eigh((weights @ weights.T).toarray())
        values = np.sqrt(np.maximum(squares, 0))
        vectors = (weights.T @ texts).T / np.maximum(values, 1e-12)[:, None]
    known = int((values > SMALLEST_SHARE * values.max()).sum())
    vectors = vectors[np.argsort(-values)[: min(known, config.dim)]]
    peaks = np.abs(vectors).argmax(axis=1)
    signs = np.sign(vectors[np.arange(len(vectors)), peaks])
    return np.ascontiguousarray((vectors * signs[:, None]).T, dtype=np.float32)
