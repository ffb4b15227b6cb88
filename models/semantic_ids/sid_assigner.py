"""Gives items their semantic IDs by what a generation froze. numpy only: an agent needs no torch.

Where the generation quantises text alone, codebooks are all it takes. Where features hold behaviour
too, an item that the fit knew keeps the SID it was trained with, for its behaviour is in it; an
item that came later gets the behaviour that its text predicts (ALGORITHMS 1.1, 1.5). Shapes: n
items, T text, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.item_features import FILE_STEM, ItemFeatures
from models.tensor_file import read_tensors, write_tensors

Floats = npt.NDArray[np.float32]

FITTED_NAME = "fitted_sids.safetensors"


def _no_keys() -> npt.NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


def _no_sids() -> npt.NDArray[np.int16]:
    return np.zeros((0, 0), dtype=np.int16)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidAssigner:
    """`features` None: the text's vector itself is quantised. `fitted_keys` [n], rising, are the
    item keys of the fit, and `fitted_sids` int16 [n, L] theirs.
    """

    codebooks: Codebooks
    features: ItemFeatures | None = None
    fitted_keys: npt.NDArray[np.int64] = field(default_factory=_no_keys)
    fitted_sids: npt.NDArray[np.int16] = field(default_factory=_no_sids)

    @classmethod
    def of_fit(
        cls,
        codebooks: Codebooks,
        features: ItemFeatures,
        keys: npt.NDArray[np.int64],
        sids: npt.NDArray[np.int16],
    ) -> Self:
        """Returns the assigner that gives the items of the fit the SIDs they were trained with."""
        order = keys.argsort()
        return cls(
            codebooks=codebooks,
            features=features,
            fitted_keys=keys[order],
            fitted_sids=sids[order],
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns what `save` wrote. Raises `TensorFileInvalid`."""
        codebooks = Codebooks.load(folder)
        if not (folder / f"{FILE_STEM}.json").is_file():
            return cls(codebooks=codebooks)
        fitted = read_tensors(folder / FITTED_NAME, require=("keys", "sids"))
        return cls(
            codebooks=codebooks,
            features=ItemFeatures.load(folder),
            fitted_keys=fitted["keys"],
            fitted_sids=fitted["sids"],
        )

    def save(self, folder: Path) -> None:
        """Writes codebooks, and features with the fit's SIDs where there are any."""
        self.codebooks.save(folder)
        if self.features is not None:
            self.features.save(folder)
            fitted: dict[str, npt.NDArray[Any]] = {}
            fitted |= {"keys": self.fitted_keys, "sids": self.fitted_sids}
            write_tensors(folder / FITTED_NAME, fitted)

    def assign(self, keys: Sequence[int], texts: Floats) -> npt.NDArray[np.int16]:
        """Returns the SIDs int16 [n, L] of items by key, whose texts are encoded as `texts` [n, T].

        Raises `EmbeddingsMismatch`, `ItemFeaturesMismatch`.
        """
        if self.features is None:
            return self.codebooks.assign(texts)
        wanted = np.array(keys, dtype=np.int64)
        places = np.minimum(self.fitted_keys.searchsorted(wanted), len(self.fitted_keys) - 1)
        new = self.fitted_keys[places] != wanted
        sids = self.fitted_sids[places]
        if new.any():
            sids[new] = self.codebooks.assign(self.features.features(texts[new]))
        return sids
