"""Fits semantic IDs on a catalogue.

Text encoder -> item features (text, vectors, behaviour; ALGORITHMS 1.1) -> residual k-means.
Everything random takes its seed from the config, the clock stays outside.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.semantic_ids.assigned_items import AssignedItems
from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.cooccurrence import Behaviour, CooccurrenceConfig, behaviour_vectors
from models.semantic_ids.encoders import TextEncoder, encode_all
from models.semantic_ids.item_features import ItemFeatures, ItemFeaturesConfig
from models.semantic_ids.new_items import Progress, quantised, stage_of
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig, fit_codebooks

if TYPE_CHECKING:  # the tables need pyarrow, the alignment needs torch: only where they are used
    from models.semantic_ids.alignment import AlignmentConfig
    from models.semantic_ids.item_table import Items

Floats = npt.NDArray[np.float32]
STAGES = ("text", "behaviour", "alignment", "codebooks", "assignment")


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticIdsConfig:
    """`alignment` None: the projected text stays as it is."""

    features: ItemFeaturesConfig = field(default_factory=ItemFeaturesConfig)
    cooccurrence: CooccurrenceConfig = field(default_factory=CooccurrenceConfig)
    codebooks: ResidualKMeansConfig = field(default_factory=ResidualKMeansConfig)
    alignment: "AlignmentConfig | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSemanticIds:
    """What is frozen, and the items it was fitted on."""

    features: ItemFeatures
    codebooks: Codebooks
    items: AssignedItems


def fit_semantic_ids(
    items: "Items",
    behaviour: Behaviour | None,
    encoder: TextEncoder,
    config: SemanticIdsConfig,
    progress: Progress,
) -> FittedSemanticIds:
    """Returns features, codebooks and assignments. Equal input and config give equal results.

    Raises `CodebookConfigInvalid`, `ItemFeaturesMismatch` or `NothingToAlign`.
    """
    texts = encode_all(encoder, items.texts, stage_of(progress, "text"))
    features, rows = fit_features(texts, items.vectors, behaviour, encoder, config, progress)
    codebooks = fit_codebooks(rows, config.codebooks, stage_of(progress, "codebooks"))
    assigned = quantised(items, rows, codebooks, progress)
    return FittedSemanticIds(features=features, codebooks=codebooks, items=assigned)


def fit_features(
    texts: Floats,
    vectors: Floats | None,
    behaviour: Behaviour | None,
    encoder: TextEncoder,
    config: SemanticIdsConfig,
    progress: Progress,
) -> tuple[ItemFeatures, Floats]:
    """Returns the frozen features and the rows [n, D] of the encoded items."""
    chosen = None
    if behaviour is not None and config.features.behaviour_weight > 0:
        progress("behaviour", 0, 1)
        chosen = behaviour_vectors(behaviour.pairs, behaviour.queries, config.cooccurrence)
        progress("behaviour", 1, 1)
    alignment = None
    if config.alignment is not None:
        alignment = _align(texts, behaviour, encoder, config, config.alignment, progress)
    features = ItemFeatures.fit(
        texts, vectors=vectors, behaviour=chosen, alignment=alignment, config=config.features
    )
    return features, features.features(texts, vectors=vectors, behaviour=chosen)


def _align(
    texts: Floats,
    behaviour: Behaviour | None,
    encoder: TextEncoder,
    config: SemanticIdsConfig,
    alignment: "AlignmentConfig",
    progress: Progress,
) -> dict[str, Floats]:
    from models.semantic_ids.alignment import NothingToAlign, pairs_of, train_alignment

    if behaviour is None:
        raise NothingToAlign(pairs=0)
    unaligned = ItemFeatures.fit(texts, config=config.features)
    said = np.zeros((0, unaligned.dim), dtype=np.float32)
    if behaviour.query_texts:
        said = unaligned.projected_texts(encoder.encode(behaviour.query_texts))
    pairs = pairs_of(behaviour.pairs, behaviour.queries)
    told = stage_of(progress, "alignment")
    return train_alignment(unaligned.projected_texts(texts), said, pairs, alignment, told)[0]
