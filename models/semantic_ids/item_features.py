"""Item features: what is quantised. Text, vectors of other modalities and behaviour, one after the
other, each of length 1 times its weight (ALGORITHMS 1.1). numpy only: an agent needs no torch to
give a new item its feature.

Text is reduced by PCA and, where it was trained, moved by the alignment MLP (`alignment`). The
behaviour of an item without interactions is predicted from its text by ridge regression: with
frozen parameters, so that a new item's feature never depends on what else is new. Shapes: n items,
T text, P its projection, M modality, C behaviour.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt

from models.tensor_file import TensorFileInvalid, read_tensors, write_tensors
from schemas.errors import OxygenRecError

Floats = npt.NDArray[np.float32]

FILE_STEM = "item_features"
CHUNK = 65_536  # rows of one covariance product: 128 MiB of float64 at 256 dimensions


class ItemFeaturesMismatch(OxygenRecError):
    """Inputs of another shape than the features were fitted on, or with NaN or infinity in them."""

    def __init__(self, *, field: str, found: str, wanted: str) -> None:
        self.field = field
        self.found = found
        self.wanted = wanted
        super().__init__(f"item features: {field}: found {found}, wanted {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFeaturesConfig:
    """Weights of the parts: text has 1, behaviour 0.8 (ALGORITHMS 1.1; 0: left out).

    `cold` is what stands for the behaviour of an item that has none.
    """

    text_dim: int = 128
    vector_dim: int = 128
    vector_weight: float = 1.0
    behaviour_weight: float = 0.8
    cold: Literal["predicted", "zero"] = "predicted"
    ridge: float = 1.0  # the rows have length 1: one pseudo-item an axis


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFeatures:
    """Frozen parameters. `text` and `vector` hold a PCA (mean [T], axes [T, P]), `alignment` the
    MLP's weights, `behaviour` the regression [P + 1, C]; an empty one is not used.
    """

    config: ItemFeaturesConfig
    text: dict[str, Floats]
    alignment: dict[str, Floats] = field(default_factory=dict)
    vector: dict[str, Floats] = field(default_factory=dict)
    behaviour: Floats = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    @classmethod
    def fit(
        cls,
        texts: Floats,
        *,
        vectors: Floats | None = None,
        behaviour: Floats | None = None,
        alignment: dict[str, Floats] | None = None,
        config: ItemFeaturesConfig | None = None,
    ) -> Self:
        """Returns parameters fitted on text [n, T], vectors [n, M] and behaviour [n, C] (rows of 0:
        none).

        `alignment` was trained on `projected_texts` of the same texts. Raises
        `ItemFeaturesMismatch`.
        """
        config = config or ItemFeaturesConfig()
        _check_rows("text", texts, None)
        features = cls(
            config=config,
            text=principal_axes(texts, config.text_dim),
            alignment=alignment or {},
            vector={} if vectors is None else principal_axes(vectors, config.vector_dim),
        )
        if behaviour is None or behaviour.shape[1] == 0 or config.behaviour_weight == 0:
            return features
        weights = _ridge(features.projected_texts(texts), behaviour, config.ridge)
        return cls(
            config=config,
            text=features.text,
            alignment=features.alignment,
            vector=features.vector,
            behaviour=weights,
        )

    @property
    def dim(self) -> int:
        """The length of a feature."""
        own = self.vector["axes"].shape[1] if self.vector else 0
        return int(self.text["axes"].shape[1] + own + self.behaviour.shape[1])

    def projected_texts(self, texts: Floats) -> Floats:
        """Returns [n, P] rows of length 1: PCA, then the alignment where there is one.

        Raises `ItemFeaturesMismatch`.
        """
        _check_rows("text", texts, len(self.text["mean"]))
        projected = _project(texts, self.text)
        if not self.alignment:
            return projected
        a = self.alignment
        hidden = np.maximum(projected @ a["hidden"] + a["hidden_bias"], 0)
        return unit_rows(projected + hidden @ a["out"] + a["out_bias"])

    def features(
        self, texts: Floats, *, vectors: Floats | None = None, behaviour: Floats | None = None
    ) -> Floats:
        """Returns [n, dim] float32.

        Rows of 0 in `vectors` or `behaviour` (or None) are items that have none. Raises
        `ItemFeaturesMismatch`.
        """
        text = self.projected_texts(texts)
        parts = [text]
        if self.vector:
            given = np.zeros((len(texts), len(self.vector["mean"])), dtype=np.float32)
            given = given if vectors is None else vectors
            _check_rows("vector", given, len(self.vector["mean"]))
            known = (given != 0).any(axis=1, keepdims=True)
            parts.append(_project(given, self.vector) * known * self.config.vector_weight)
        if self.behaviour.size:
            known_rows = self._behaviour(text, behaviour)
            parts.append(known_rows * self.config.behaviour_weight)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Writes `item_features.json` and `item_features.safetensors` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"text": self.text, "alignment": self.alignment, "vector": self.vector}
        tensors = {
            f"{part}.{name}": a for part, arrays in parts.items() for name, a in arrays.items()
        }
        write_tensors(folder / f"{FILE_STEM}.safetensors", {**tensors, "behaviour": self.behaviour})
        (folder / f"{FILE_STEM}.json").write_bytes(msgspec.json.encode(asdict(self.config)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns the features saved in `folder`. Raises `TensorFileInvalid`."""
        path = folder / f"{FILE_STEM}.json"
        if not path.is_file():
            raise TensorFileInvalid(path=path, found="no file", wanted="saved item features")
        wanted = ("text.mean", "text.axes", "behaviour")
        tensors = read_tensors(folder / f"{FILE_STEM}.safetensors", require=wanted)
        return cls(
            config=msgspec.json.decode(path.read_bytes(), type=ItemFeaturesConfig),
            text=_part(tensors, "text"),
            alignment=_part(tensors, "alignment"),
            vector=_part(tensors, "vector"),
            behaviour=tensors["behaviour"],
        )

    def _behaviour(self, text: Floats, behaviour: Floats | None) -> Floats:
        """Returns [n, C]: the known rows as they are, the others as the config says."""
        guess = np.zeros((len(text), self.behaviour.shape[1]), dtype=np.float32)
        if self.config.cold == "predicted":
            guess = unit_rows(text @ self.behaviour[:-1] + self.behaviour[-1])
        if behaviour is None:
            return guess
        _check_rows("behaviour", behaviour, self.behaviour.shape[1])
        return np.where((behaviour != 0).any(axis=1, keepdims=True), behaviour, guess)


def principal_axes(rows: Floats, dim: int) -> dict[str, Floats]:
    """Returns mean [T] and the axes [T, P] of largest variance, P <= dim; the largest entry of an
    axis is positive.

    Rows of 0 say nothing and are left out.
    """
    told = rows[(rows != 0).any(axis=1)]
    told = told if len(told) else rows
    mean = told.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(told), CHUNK):
        part = told[start : start + CHUNK] - mean
        covariance += part.T @ part
    values, axes = np.linalg.eigh(covariance)
    kept = np.argsort(-values, kind="stable")[: min(dim, len(told))]
    axes = axes[:, kept]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return {"mean": mean.astype(np.float32), "axes": (axes * signs).astype(np.float32)}


def unit_rows(rows: npt.NDArray[np.floating]) -> Floats:
    """Returns rows of length 1; a row of (nearly) 0 becomes 0."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1e-9, rows / np.maximum(lengths, 1e-9), 0).astype(np.float32)


def _part(tensors: dict[str, Floats], part: str) -> dict[str, Floats]:
    start = f"{part}."
    return {k.removeprefix(start): a for k, a in tensors.items() if k.startswith(start)}


def _project(rows: Floats, pca: dict[str, Floats]) -> Floats:
    return unit_rows((rows - pca["mean"]) @ pca["axes"])


def _ridge(texts: Floats, behaviour: Floats, ridge: float) -> Floats:
    """Returns W [P + 1, C] with texts W[:-1] + W[-1] near the behaviour of items that have one."""
    told = (behaviour != 0).any(axis=1)
    inputs = np.concatenate([texts[told], np.ones((int(told.sum()), 1))], axis=1)
    squares = inputs.T @ inputs + ridge * np.eye(inputs.shape[1])
    return np.asarray(np.linalg.solve(squares, inputs.T @ behaviour[told]), dtype=np.float32)


def _check_rows(field: str, rows: Floats, dim: int | None) -> None:
    wanted = f"[n, {dim}]" if dim is not None else "[n, T], n >= 1"
    if rows.ndim != 2 or len(rows) == 0 or (dim is not None and rows.shape[1] != dim):
        raise ItemFeaturesMismatch(field=field, found=f"shape {rows.shape}", wanted=wanted)
    if not np.isfinite(rows).all():
        raise ItemFeaturesMismatch(field=field, found="NaN or infinity", wanted="finite numbers")
