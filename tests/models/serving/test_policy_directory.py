"""Version directories: immutable, whole or absent, checked before they serve."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from models.decoding.item_index import ItemIndexInvalid
from models.serving.engine import GeneratorEngine
from models.serving.index_file import index_of
from models.serving.policy_directory import (
    FILES,
    PolicyDirectoryInvalid,
    load_version,
    published_versions,
    read_manifest,
    write_version,
)
from models.serving.triton_config import render_config, write_config
from models.tensor_file import TensorFileInvalid
from models.vectors import pack
from schemas.catalog import SidAssignment
from tests.models.generator.small_policy import SCENARIOS, request, small_policy

REPOSITORY_ROOT = Path(__file__).parents[3]
POLICY = small_policy()


def write(repository: Path, version: int = 1) -> Path:
    manifest = msgspec.structs.replace(POLICY.manifest, policy_version=version)
    return write_version(repository, manifest, POLICY.generator, POLICY.index)


def test_a_loaded_version_answers_as_the_one_that_was_written(tmp_path: Path) -> None:
    asked = [request(POLICY.index, 12), request(POLICY.index, 0, scenario="detail")]
    loaded = load_version(write(tmp_path))
    assert GeneratorEngine(loaded).generate(asked) == GeneratorEngine(POLICY).generate(asked)


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    folder = write(tmp_path)
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    load_version(folder)
    assert torch.equal(torch.rand(3), wanted)


def test_a_version_directory_holds_the_files_of_the_contract_and_model_py_one_line(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path)
    assert {path.name for path in folder.iterdir()} == {*FILES, "manifest.json", "__pycache__"}
    assert len((folder / "model.py").read_text().splitlines()) == 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"].keys() == set(FILES)
    assert manifest["torch_version"] == torch.__version__
    assert manifest["reward_offsets"] == [0, 0]


def test_importing_a_version_does_not_change_its_folder(tmp_path: Path) -> None:
    folder = write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}
    # As Triton's stub does; sys.dont_write_bytecode is off unless a variable says otherwise.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHONDONTWRITE")}
    subprocess.run(
        [sys.executable, "-c", "import model"],
        cwd=folder,
        env=environment | {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY_ROOT}"},
        check=True,
    )
    assert {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))} == before


def test_a_version_is_never_overwritten_and_no_draft_stays(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(PolicyDirectoryInvalid, match="wanted a version not there"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_writer_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.serving.policy_directory.save_index", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_or_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PolicyDirectoryInvalid, match=f"{name}: found sha256"):
        load_version(folder)
    (folder / name).unlink()
    with pytest.raises(PolicyDirectoryInvalid, match=f"{name}: found no file"):
        load_version(folder)


def test_a_directory_under_another_number_is_refused(tmp_path: Path) -> None:
    moved = write(tmp_path).rename(tmp_path / "9")
    with pytest.raises(PolicyDirectoryInvalid, match="found policy_version 1, wanted 9"):
        read_manifest(moved)


def test_a_broken_or_missing_manifest_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "manifest.json").write_text('{"policy_version": "one"}')
    with pytest.raises(PolicyDirectoryInvalid, match=r"policy_version"):
        load_version(folder)
    with pytest.raises(PolicyDirectoryInvalid, match="no file"):
        load_version(tmp_path / "2")


def test_weights_of_other_sizes_than_the_manifest_says_are_not_written(tmp_path: Path) -> None:
    fewer = msgspec.structs.replace(POLICY.manifest, scenarios=SCENARIOS[:2])
    with pytest.raises(PolicyDirectoryInvalid, match="3 scenarios"):
        write_version(tmp_path, fewer, POLICY.generator, POLICY.index)
    assert list(tmp_path.iterdir()) == []


def test_weights_and_config_that_disagree_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    config = json.loads((folder / "generator.json").read_text()) | {"width": 64}
    (folder / "generator.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    with (folder / "generator.json").open("rb") as file:
        manifest["files"]["generator.json"] = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TensorFileInvalid, match=r"weights\.safetensors: found .* of shape"):
        load_version(folder)


def test_config_names_exactly_the_versions_that_serve(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    (tmp_path / ".3-draft").mkdir()
    assert published_versions(tmp_path) == [1, 2]
    path = write_config(tmp_path, [2, 1], content_dim=16, levels=3)
    text = path.read_text()
    assert "specific { versions: [ 1, 2 ] }" in text
    assert text == render_config([1, 2], content_dim=16, levels=3)
    assert {entry.name for entry in tmp_path.iterdir()} == {"1", "2", ".3-draft", "config.pbtxt"}


def test_config_of_a_version_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(PolicyDirectoryInvalid, match=r"found versions \[1\], wanted version 7"):
        write_config(tmp_path, [1, 7], content_dim=16, levels=3)
    assert not (tmp_path / "config.pbtxt").exists()


def assignment(key: int, sid: list[int], **changes: object) -> SidAssignment:
    fields = {
        "item_key": key,
        "item_id": f"i{key}",
        "sid": sid,
        "generation": 1,
        "embedding": pack(np.full(4, key)),
        "in_stock": True,
        "scenarios": None,
        "published_ms": 0,
    }
    return SidAssignment(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_index_is_the_newest_assignment_of_every_item_of_its_generation() -> None:
    log = [
        assignment(5, [1, 2]),
        assignment(3, [1, 0], scenarios=["home"]),
        assignment(5, [1, 2], in_stock=False),
        assignment(9, [0, 0], generation=2),
    ]
    index = index_of(log, generation=1, scenarios=["home", "search"])
    assert index.keys_N.tolist() == [3, 5]
    assert index.codes_NL.tolist() == [[1, 0], [1, 2]]
    assert index.in_stock_N.tolist() == [True, False]
    assert index.scenarios_KN.tolist() == [[True, True], [False, True]]
    assert index.content_NC[:, 0].tolist() == [3, 5]


def test_a_generation_without_items_has_no_index() -> None:
    with pytest.raises(ItemIndexInvalid, match="none of generation 2"):
        index_of([assignment(5, [1, 2])], generation=2, scenarios=["home"])
    with pytest.raises(ItemIndexInvalid, match="sid"):
        index_of([assignment(5, [1, 2]), assignment(6, [1])], generation=1, scenarios=["home"])
