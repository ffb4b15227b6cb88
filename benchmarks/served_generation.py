"""A fitted generation behind the engine that serves: what benchmarks ask instead of Triton."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agents.demo.training_windows import served_windows
from agents.settings import Settings
from agents.shop.shop import Shop
from agents.shop.shoppers import Shopper
from models.decoding.item_index import ItemIndex
from models.generator.files import load_generator
from models.reasoning.item_text import item_text
from models.reasoning.local_reasoner import LocalReasoner
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.sid_assigner import SidAssigner
from models.serving.engine import GeneratorEngine
from models.serving.index_file import index_of
from models.serving.policy_directory import Manifest, load_version, write_version
from models.training.fit import FitConfig, Log, fit_generation
from models.training.instructions import InstructionReplay, item_rows
from models.training.training_loop import TrainingConfig
from models.vectors import pack
from schemas.catalog import SidAssignment, item_key_of
from schemas.users import UserProfile

GENERATION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The engine, and what turns a shopper's log into its requests."""

    engine: GeneratorEngine
    encoder: CharacterEncoder
    replay: InstructionReplay
    category_of: dict[int, str]
    queries: frozenset[str]
    manifest: dict[str, Any]


def serve(
    shop: Shop,
    settings: Settings,
    home: Path,
    *,
    seed: int,
    trained_on: Sequence[Shopper],
    held_out: Sequence[Shopper],
    until_ms: int,
    days: int,
) -> Served:
    """Fits a generation on the past of `trained_on` and serves its version 1 to `held_out`."""
    actions = shop.past(trained_on, until_ms=until_ms, days=days)
    windows = served_windows(settings)
    scenarios = list(settings.serving.scenarios)
    log = Log(
        items=shop.catalogue(),
        actions=actions,
        windows=windows,
        scenarios=scenarios,
        profiles=_profiles(trained_on),
    )
    config = FitConfig(features=settings.offline.features, training=TrainingConfig(seed=seed))
    manifest = fit_generation(
        log, home=home, generation=GENERATION, created_ms=until_ms, config=config
    )
    folder = home / "generations" / str(GENERATION)
    encoder = CharacterEncoder.load(folder)
    index = _index(shop, encoder, SidAssigner.load(folder), scenarios)
    version = Manifest(
        policy_version=1,
        generation=GENERATION,
        index_offset=len(index.keys_N),
        scenarios=scenarios,
        created_ms=until_ms,
    )
    written = write_version(home / "repository", version, load_generator(folder), index)
    return Served(
        engine=GeneratorEngine(load_version(written)),
        encoder=encoder,
        replay=InstructionReplay(
            reasoner=LocalReasoner(),
            windows=windows,
            items=item_rows(shop.catalogue()),
            profiles=_profiles(held_out),
        ),
        category_of={item_key_of(item.item_id): item.category for item in shop.catalogue()},
        queries=frozenset(action.query for action in actions if action.query),
        manifest=msgspec.to_builtins(manifest),
    )


def _profiles(shoppers: Sequence[Shopper]) -> dict[str, UserProfile]:
    return {shopper.user_id: shopper.profile for shopper in shoppers}


def _index(
    shop: Shop, encoder: CharacterEncoder, assigner: SidAssigner, scenarios: Sequence[str]
) -> ItemIndex:
    """Returns the index that the catalog indexer's assignments make."""
    items = shop.catalogue()
    vectors = encoder.encode([item_text(item) for item in items])
    sids = assigner.assign([item_key_of(item.item_id) for item in items], vectors)
    assignments = [
        SidAssignment(
            item_key=item_key_of(item.item_id),
            item_id=item.item_id,
            sid=[int(code) for code in sid],
            generation=GENERATION,
            embedding=pack(vector),
            in_stock=item.in_stock,
            scenarios=item.scenarios,
            published_ms=0,
        )
        for item, sid, vector in zip(items, sids, vectors, strict=True)
    ]
    return index_of(assignments, generation=GENERATION, scenarios=scenarios)
