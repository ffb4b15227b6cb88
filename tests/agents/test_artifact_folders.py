"""Which artifacts are the current ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from agents.artifact_folders import NoGeneration, generation_folder, newest_generation
from agents.settings import PathsConfig, Settings


def test_the_newest_complete_generation_is_the_current_one(tmp_path: Path) -> None:
    settings = replace(Settings(), paths=PathsConfig(home=str(tmp_path)))
    with pytest.raises(NoGeneration, match="oxygenrec up"):
        newest_generation(settings)
    for name, complete in (("2", True), ("10", True), ("11", False), ("x", True)):
        folder = tmp_path / "generations" / name
        folder.mkdir(parents=True)
        if complete:
            (folder / "manifest.json").write_text("{}")
    assert newest_generation(settings) == 10
    assert generation_folder(settings, 10) == tmp_path / "generations" / "10"
