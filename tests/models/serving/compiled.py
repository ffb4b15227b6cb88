"""One compiled decoding for all tests that need one: a minute, in a process of its own."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents.decoding_compiler import DecodingCompiler
from agents.settings import PathsConfig, ServingConfig, Settings
from models.decoding.item_index import ItemIndex
from models.generator.generator import Generator
from models.serving.compiled_record import CompiledArtifact
from models.serving.policy_directory import LoadedPolicy
from tests.models.generator.small_policy import small_config, small_policy

BEAMS = 6
CONFIG = replace(small_config(), recent=3, retrieved=2)


def small_artifact(home: Path) -> CompiledArtifact:
    """Compiles decoding for `CONFIG`; skips the test where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    settings = Settings(
        paths=PathsConfig(home=str(home)), serving=ServingConfig(compiled=True, beams=BEAMS)
    )
    artifact = DecodingCompiler(settings).artifact(CONFIG)
    assert artifact is not None
    return artifact


def policy_of(index: ItemIndex | None = None, *, version: int = 1, seed: int = 0) -> LoadedPolicy:
    """Returns `small_policy` with weights of `CONFIG`."""
    torch.manual_seed(seed)
    generator = Generator(CONFIG).eval()
    return replace(small_policy(version, index=index), generator=generator)
