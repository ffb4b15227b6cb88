"""Puts a generation's text encoder into Triton, where it needs torch, before anybody needs vectors.

Two steps, each repeatable: the version directory by one rename, then `load`. No torch here.
"""

import logging
from dataclasses import replace
from pathlib import Path

from agents.artifact_folders import generation_folder
from agents.settings import Settings
from agents.text_encoders import generation_encoder
from models.serving.encoder_directory import FOLDER, EncoderManifest, write_encoder_version
from streams.triton_control import TritonControl

logger = logging.getLogger(__name__)


async def publish_encoder(settings: Settings, generation: int) -> bool:
    """Returns whether the generation's encoder is one of Triton's; then it is loaded and ready.

    Raises `EncoderMismatch`, `TritonControlFailed`, OSError for a generation that is not there.
    """
    folder = generation_folder(settings, generation)
    facts = generation_encoder(folder)
    if facts.encoder is None or not facts.needs_torch or not settings.triton.grpc_url:
        return False
    model = settings.triton.encoder_model
    manifest = EncoderManifest(generation=generation, encoder_id=facts.encoder.encoder_id)
    repository = Path(settings.paths.home) / "model_repository" / model
    write_encoder_version(repository, folder / FOLDER, manifest)
    async with TritonControl(replace(settings.triton, model=model)) as control:
        await control.load()
    logger.info("text encoder loaded", extra={"generation": generation, "model": model})
    return True
