"""A catalogue, an untrained generator on it, and requests, for `decoding`.

Small catalogues stand in clusters of clusters, as text embeddings do; their SIDs are the
tokenizer's own. SIDs of large ones are drawn: each prefix of two codes continues about five times.
The weights are random: time and exactness do not depend on what was learnt.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.decoding.item_index import ItemIndex
from models.generator.config import PRESETS, GeneratorConfig
from models.generator.generator import Generator
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig, fit_codebooks
from models.serving.policy_directory import LoadedPolicy, Manifest
from models.vectors import pack
from schemas.generation import GenerationRequest
from schemas.impressions import HistoryFeatures

SCENARIOS = ["home", "search", "detail"]
CONTENT_DIM = 256
IN_STOCK = 0.95

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.integer[Any]]
EXCLUDED = 5
SIZES = {
    **PRESETS,
    "4 + 4 layers of 256": GeneratorConfig(
        width=256, heads=4, feed_forward=1_024, encoder_layers=4, decoder_layers=4
    ),
    "6 + 6 layers of 512 (T5-small)": GeneratorConfig(
        width=512, heads=8, feed_forward=2_048, encoder_layers=6, decoder_layers=6
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`codes` = V; `clusters` of 4 smaller ones each, or 0: drawn; `size` is one of `SIZES`."""

    items: int
    codes: int
    clusters: int = 0
    history: int = 20
    size: str = "tiny"

    @property
    def is_large(self) -> bool:
        """Whether a table [P, V] or a score of every SID is out of the question."""
        return not self.clusters


def policy_of(setting: Setting, seed: int = 0) -> LoadedPolicy:
    """Returns a policy version of the setting, in memory."""
    rng = np.random.default_rng(seed)
    content, codes = _drawn(setting, rng) if setting.is_large else _clustered(setting, rng)
    index = ItemIndex.build(
        keys=torch.from_numpy(rng.integers(0, 2**40, setting.items) * setting.items)
        + torch.arange(setting.items),
        codes=torch.from_numpy(codes),
        content=torch.from_numpy(content),
        in_stock=torch.from_numpy(rng.random(setting.items) < IN_STOCK),
        scenarios=torch.ones(len(SCENARIOS), setting.items, dtype=torch.bool),
    )
    torch.manual_seed(seed)
    config = replace(SIZES[setting.size], codes=setting.codes)
    generator = Generator(config).eval()
    manifest = Manifest(
        policy_version=1,
        generation=1,
        index_offset=setting.items,
        scenarios=SCENARIOS,
        created_ms=0,
    )
    return LoadedPolicy(manifest=manifest, generator=generator, index=index)


def _clustered(setting: Setting, rng: np.random.Generator) -> tuple[Vectors, Codes]:
    centres = rng.standard_normal((setting.clusters, CONTENT_DIM))
    smaller = 0.7 * rng.standard_normal((setting.clusters, 4, CONTENT_DIM))
    cluster, inside = (rng.integers(0, size, setting.items) for size in (setting.clusters, 4))
    noise = 0.4 * rng.standard_normal((setting.items, CONTENT_DIM))
    content = centres[cluster] + smaller[cluster, inside] + noise
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    config = ResidualKMeansConfig(codes=setting.codes, iterations=8, restarts=1)
    return content.astype(np.float32), fit_codebooks(content, config).assign(content)


def _drawn(setting: Setting, rng: np.random.Generator) -> tuple[Vectors, Codes]:
    prefixes = rng.integers(0, setting.codes, (setting.items // 5, 2), dtype=np.int16)
    last = rng.integers(0, setting.codes, (setting.items, 1), dtype=np.int16)
    codes = np.concatenate([prefixes[rng.integers(0, len(prefixes), setting.items)], last], axis=1)
    content = rng.standard_normal((setting.items, CONTENT_DIM), dtype=np.float32)
    return content / np.float32(CONTENT_DIM**0.5), codes


def request_of(index: ItemIndex, beams: int, seed: int, history: int = 20) -> GenerationRequest:
    """Returns a request with `history` actions, an instruction, and 5 items not to show."""
    rng = np.random.default_rng(seed)
    keys = index.keys_N.numpy()
    return GenerationRequest(
        scenario=SCENARIOS[0],
        history=HistoryFeatures(
            item_keys=rng.choice(keys, history).tolist(),
            action_codes=rng.integers(0, 9, history).tolist(),
            gap_buckets=rng.integers(0, 32, history).tolist(),
        ),
        beams=beams,
        instruction=pack(rng.standard_normal(CONTENT_DIM) / CONTENT_DIM**0.5),
        exclude_keys=rng.choice(keys, EXCLUDED).tolist(),
    )
