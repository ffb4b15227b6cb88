"""A catalogue, an untrained generator of preset tiny on it, and requests, for `decoding`.

Items stand in clusters of clusters, as text embeddings do; their SIDs are the tokenizer's own. The
weights are random: time and exactness do not depend on what was learnt.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from models.decoding.item_index import ItemIndex
from models.generator.config import PRESETS
from models.generator.generator import Generator
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig, fit_codebooks
from models.serving.policy_directory import LoadedPolicy, Manifest
from models.vectors import pack
from schemas.generation import GenerationRequest
from schemas.impressions import HistoryFeatures

SCENARIOS = ["home", "search", "detail"]
CONTENT_DIM = 256
IN_STOCK = 0.95
HISTORY = 20
EXCLUDED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """`clusters` of 4 smaller clusters each; `codes` = V."""

    items: int
    codes: int
    clusters: int


def policy_of(catalogue: Catalogue, seed: int = 0) -> LoadedPolicy:
    """Returns a policy version of the catalogue, in memory."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((catalogue.clusters, CONTENT_DIM))
    smaller = 0.7 * rng.standard_normal((catalogue.clusters, 4, CONTENT_DIM))
    cluster, inside = (rng.integers(0, size, catalogue.items) for size in (catalogue.clusters, 4))
    noise = 0.4 * rng.standard_normal((catalogue.items, CONTENT_DIM))
    content = centres[cluster] + smaller[cluster, inside] + noise
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    books = fit_codebooks(
        content, ResidualKMeansConfig(codes=catalogue.codes, iterations=8, restarts=1)
    )
    index = ItemIndex.build(
        keys=torch.from_numpy(rng.choice(2**62, size=catalogue.items, replace=False)),
        codes=torch.from_numpy(books.assign(content)),
        content=torch.from_numpy(content),
        in_stock=torch.from_numpy(rng.random(catalogue.items) < IN_STOCK),
        scenarios=torch.ones(len(SCENARIOS), catalogue.items, dtype=torch.bool),
    )
    torch.manual_seed(seed)
    generator = Generator(replace(PRESETS["tiny"], codes=catalogue.codes)).eval()
    manifest = Manifest(
        policy_version=1,
        generation=1,
        index_offset=catalogue.items,
        scenarios=SCENARIOS,
        created_ms=0,
    )
    return LoadedPolicy(manifest=manifest, generator=generator, index=index)


def request_of(index: ItemIndex, beams: int, seed: int) -> GenerationRequest:
    """Returns a request with 20 actions, an instruction, and 5 items not to show."""
    rng = np.random.default_rng(seed)
    keys = index.keys_N.numpy()
    return GenerationRequest(
        scenario=SCENARIOS[0],
        history=HistoryFeatures(
            item_keys=rng.choice(keys, HISTORY).tolist(),
            action_codes=rng.integers(0, 9, HISTORY).tolist(),
            gap_buckets=rng.integers(0, 32, HISTORY).tolist(),
        ),
        beams=beams,
        instruction=pack(rng.standard_normal(CONTENT_DIM) / CONTENT_DIM**0.5),
        exclude_keys=rng.choice(keys, EXCLUDED).tolist(),
    )
