"""A generation whose text encoder needs torch: a tiny one, and codebooks of its dimensions."""

from pathlib import Path

import msgspec
import numpy as np

from agents.text_encoders import GenerationEncoder
from models.reasoning.minilm import MiniLmEncoder
from models.semantic_ids.artifact import EncoderRecord
from models.semantic_ids.assignment import Codebooks
from tests.models.reasoning.tiny_encoder import write_encoder_folder


def write_generation(home: Path, generation: int, seed: int = 0) -> MiniLmEncoder:
    """Writes what agents read of a generation; returns the encoder as it is in process."""
    folder = home / "generations" / str(generation)
    encoder = MiniLmEncoder.load(write_encoder_folder(folder / "text_encoder", seed))
    record = EncoderRecord(kind="folder", encoder_id=encoder.encoder_id)
    facts = GenerationEncoder(encoder=record, dim=encoder.dim)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(facts))
    centroids = np.random.default_rng(0).standard_normal((3, 16, encoder.dim)) / 4
    Codebooks(centroids=centroids.astype(np.float32)).save(folder)
    return encoder
