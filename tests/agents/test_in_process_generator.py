"""Versions of the in-process generator: two are kept, the ones prepared last."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.in_process_generator import InProcessGenerator
from agents.settings import ServingConfig, Settings
from models.serving.policy_directory import write_version
from schemas.generation import GeneratorUnavailable
from tests.models.generator.small_policy import request, small_policy

PATIENT_MS = 20_000
SETTINGS = Settings(serving=ServingConfig(follow_catalog=False))


async def test_a_roll_back_to_a_smaller_version_serves_and_the_oldest_is_let_go(
    tmp_path: Path,
) -> None:
    policy = small_policy(1)
    for version in (1, 2, 3):
        manifest = replace(policy.manifest, policy_version=version)
        write_version(tmp_path, manifest, policy.generator, policy.index)
    asked = request(policy.index)
    async with InProcessGenerator(tmp_path, SETTINGS) as generator:
        for version in (1, 2, 3, 1):
            await generator.prepare(version)
            answer = await generator.generate(asked, version=version, deadline_ms=PATIENT_MS)
            assert answer.policy_version == version
        with pytest.raises(GeneratorUnavailable, match="version"):
            await generator.generate(asked, version=2, deadline_ms=PATIENT_MS)


async def test_a_version_that_cannot_be_loaded_leaves_the_served_one_alone(
    tmp_path: Path,
) -> None:
    policy = small_policy(1)
    write_version(tmp_path, policy.manifest, policy.generator, policy.index)
    async with InProcessGenerator(tmp_path, SETTINGS) as generator:
        await generator.prepare(1)
        await generator.prepare(2)
        answer = await generator.generate(request(policy.index), version=1, deadline_ms=PATIENT_MS)
    assert answer.policy_version == 1
