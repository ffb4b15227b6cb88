"""A small catalogue and an untrained generator on it, for the tests of several rooms."""

import numpy as np
import torch

from models.decoding.item_index import ItemIndex
from models.generator.config import GeneratorConfig
from models.generator.generator import Generator
from models.serving.policy_directory import LoadedPolicy, Manifest
from models.vectors import pack
from schemas.generation import GenerationRequest
from schemas.impressions import HistoryFeatures

SCENARIOS = ["home", "search", "detail"]
CONTENT_DIM = 16
CODES = 8


def small_config() -> GeneratorConfig:
    return GeneratorConfig(
        codes=CODES,
        content_dim=CONTENT_DIM,
        width=32,
        heads=4,
        feed_forward=48,
        encoder_layers=1,
        decoder_layers=2,
    )


def small_index(items: int = 120, seed: int = 0) -> ItemIndex:
    rng = np.random.default_rng(seed)
    scenarios = torch.ones(len(SCENARIOS), items, dtype=torch.bool)
    scenarios[2, ::3] = False
    return ItemIndex.build(
        keys=torch.from_numpy(rng.choice(2**62, size=items, replace=False)),
        codes=torch.from_numpy(rng.integers(0, CODES, (items, 3)) // [1, 2, 2]),
        content=torch.from_numpy(rng.standard_normal((items, CONTENT_DIM)) / 4),
        in_stock=torch.from_numpy(rng.random(items) > 0.1),
        scenarios=scenarios,
    )


def small_policy(
    version: int = 1, *, seed: int = 0, index: ItemIndex | None = None
) -> LoadedPolicy:
    torch.manual_seed(seed)
    manifest = Manifest(
        policy_version=version,
        generation=3,
        index_offset=120,
        scenarios=SCENARIOS,
        created_ms=1_700_000_000_000,
    )
    generator = Generator(small_config()).eval()
    return LoadedPolicy(manifest=manifest, generator=generator, index=index or small_index())


def request(
    index: ItemIndex,
    history: int = 5,
    *,
    seed: int = 0,
    scenario: str = "home",
    beams: int = 20,
    trigger: bool = False,
    instruction: bool = True,
    excluded: int = 3,
) -> GenerationRequest:
    rng = np.random.default_rng(seed)
    keys = index.keys_N.tolist()

    def some(count: int) -> list[int]:
        return [keys[row] for row in rng.integers(0, len(keys), count)]

    return GenerationRequest(
        scenario=scenario,
        history=HistoryFeatures(
            item_keys=some(history),
            action_codes=rng.integers(0, 9, history).tolist(),
            gap_buckets=rng.integers(0, 32, history).tolist(),
        ),
        beams=beams,
        trigger_key=some(1)[0] if trigger else None,
        instruction=pack(rng.standard_normal(CONTENT_DIM)) if instruction else None,
        exclude_keys=some(excluded),
    )
