"""The generations that the benchmark `next_item` asks: trained once a seed, and kept where told."""

from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from agents.demo.training_windows import served_windows
from agents.settings import Settings
from models.decoding.item_index import ItemIndex
from models.decoding.neighbours import NeighbourConfig
from models.generator.files import load_generator
from models.reasoning.item_text import item_text
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig
from models.semantic_ids.sid_assigner import SidAssigner
from models.serving.policy_directory import LoadedPolicy, Manifest
from models.training.checkpoint import Checkpointing
from models.training.fit import (
    FitConfig,
    FitProgress,
    GenerationManifest,
    Log,
    fit_generation,
)
from models.training.folder import FolderData
from models.training.neighbour_table import neighbours_of
from models.training.training_loop import TrainingConfig
from schemas.catalog import item_key_of

SCENARIO = "home"
CODES = 256
REDUCED = FitConfig(
    codebooks=ResidualKMeansConfig(codes=CODES), training=TrainingConfig(steps=1_800)
)
# What validation preferred of two sizes on a card; every row reads its history, as those who are
# asked have one.
TRAINED_OUT = replace(
    REDUCED,
    sizes={"width": 192, "heads": 6, "feed_forward": 768},
    dropout=0.4,
    training=TrainingConfig(
        steps=4_300, batch=512, learning_rate=1e-3, weight_decay=0.1, history_limits=(1_000,)
    ),
)


def fitted_generation(
    home: Path, data: FolderData, config: FitConfig
) -> tuple[GenerationManifest, Path]:
    """Returns the generation of a seed: the one in `home`, or a new one, which goes on where it was
    cut.
    """
    seed, steps, features = config.training.seed, config.training.steps, config.features
    folder = home / "generations" / str(seed + 1)
    if (folder / "manifest.json").is_file():
        text = (folder / "manifest.json").read_bytes()
        kept = msgspec.json.decode(text, type=GenerationManifest)
        if (kept.seed, kept.steps, kept.items, kept.features) != (
            *(seed, steps, len(data.items), features),
        ):
            raise SystemExit(
                f"{folder}: of other steps, features or data; name an empty folder for --keep"
            )
        return kept, folder
    log = Log(
        items=data.items,
        actions=data.actions,
        windows=served_windows(Settings(), expire=False),
        scenarios=[SCENARIO],
    )
    checkpoint = home / "training" / f"{seed + 1}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    fitted = fit_generation(
        log,
        home=home,
        generation=seed + 1,
        created_ms=0,
        config=replace(config, max_rows=len(data.actions)),
        progress=_say,
        checkpointing=Checkpointing(path=checkpoint, every=100),
    )
    checkpoint.unlink()
    return fitted, folder


def policy_of(folder: Path, data: FolderData) -> tuple[LoadedPolicy, CharacterEncoder]:
    """Returns a generation as a version in memory, with a table of weight 1, and its encoder."""
    encoder, assigner = CharacterEncoder.load(folder), SidAssigner.load(folder)
    content = encoder.encode([item_text(item) for item in data.items])
    keys = [item_key_of(item.item_id) for item in data.items]
    index = ItemIndex.build(
        keys=torch.tensor(keys),
        codes=torch.from_numpy(assigner.assign(keys, content)),
        content=torch.from_numpy(content),
    )
    manifest = Manifest(
        policy_version=1, generation=1, index_offset=0, scenarios=[SCENARIO], created_ms=0
    )
    generator = load_generator(folder)
    policy = LoadedPolicy(
        manifest=manifest,
        generator=generator,
        index=index,
        neighbours=neighbours_of(data.actions, NeighbourConfig(weight=1.0)),
    )
    return policy, encoder


def _say(progress: FitProgress) -> None:
    if progress.done == progress.total or progress.done % 200 == 0:
        print(f"  {progress.stage}: {progress.done}/{progress.total} {progress.note}", flush=True)
