"""One policy version = one immutable directory: `model_repository/generator/<policy_version>/`.

It appears by one atomic rename and never changes: model.py (one import line), manifest.json,
weights.safetensors, generator.json, index.safetensors, neighbours.safetensors where its generation
re-ranks, decoding.pt2 where decoding is compiled. The manifest holds each file's sha256, and a
version that does not match it is not loaded (without its compiled decoding, it decodes eagerly).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from models.decoding.item_index import ItemIndex
from models.decoding.neighbours import Neighbours
from models.generator.files import CONFIG_NAME, load_generator, save_generator
from models.generator.generator import Generator
from models.serving.compiled_record import FILE_NAME as COMPILED_NAME
from models.serving.compiled_record import CompiledArtifact, CompiledRecord
from models.serving.index_file import FILE_NAME as INDEX_NAME
from models.serving.index_file import load_index, save_index
from models.serving.neighbours_file import FILE_NAME as NEIGHBOURS_NAME
from models.serving.neighbours_file import load_neighbours, save_neighbours, sha256_of
from models.serving.version_folder import (
    MANIFEST_NAME,
    MODEL_NAME,
    VersionExists,
    version_draft,
)
from schemas.errors import OxygenRecError

WEIGHTS_NAME = "weights.safetensors"
MODEL_LINE = "from agents.triton_generator import TritonPythonModel as TritonPythonModel\n"
FILES = (MODEL_NAME, WEIGHTS_NAME, CONFIG_NAME, INDEX_NAME)


class Manifest(Struct, frozen=True, kw_only=True):
    """What one version is and where it came from. `files` and `torch_version` are filled in by the
    writer.

    `parent` None: the generation's offline model. `reward_offsets` [a, b) of `rewards` were learnt
    from since the parent; `index_offset`: the index holds `semantic-ids` up to, not including, it.
    """

    policy_version: int
    generation: int
    index_offset: int
    scenarios: list[str]
    created_ms: int
    parent: int | None = None
    reward_offsets: tuple[int, int] = (0, 0)
    groups_used: int = 0
    steps: int = 0
    weight_change_norm: float = 0.0
    files: dict[str, str] = {}
    torch_version: str = ""
    compiled: CompiledRecord | None = None


class PolicyDirectoryInvalid(OxygenRecError):
    """A version directory that must not be served, or cannot be written."""

    def __init__(self, *, path: Path, found: str, wanted: str) -> None:
        self.path = path
        self.found = found
        self.wanted = wanted
        super().__init__(f"{path}: found {found}, wanted {wanted}; publish the version again")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPolicy:
    """A version in memory: the generator in eval mode and the index its log-probs belong to.

    `neighbours` re-rank items; they are no part of the policy, and no log-prob knows them.
    """

    manifest: Manifest
    generator: Generator
    index: ItemIndex
    neighbours: Neighbours | None = None


def write_version(
    repository: Path,
    manifest: Manifest,
    generator: Generator,
    index: ItemIndex,
    neighbours: Neighbours | None = None,
    compiled: CompiledArtifact | None = None,
) -> Path:
    """Writes `repository/<policy_version>` by one atomic rename; returns it.

    `repository` is the model's folder (`model_repository/generator`). A crash leaves at most a
    hidden folder, which Triton ignores. Raises `PolicyDirectoryInvalid` when the version is there.
    """
    _check_writable(repository, manifest, generator, index)
    target = repository / str(manifest.policy_version)
    try:
        with version_draft(target, MODEL_LINE) as draft:
            save_generator(draft, generator, WEIGHTS_NAME)
            save_index(draft, index)
            hashes = {name: sha256_of(draft / name) for name in FILES}
            if neighbours is not None:
                hashes[NEIGHBOURS_NAME] = save_neighbours(draft, neighbours).sha256
            if compiled is not None:
                shutil.copyfile(compiled.path, draft / COMPILED_NAME)
                hashes[COMPILED_NAME] = sha256_of(draft / COMPILED_NAME)
            manifest = msgspec.structs.replace(
                manifest,
                files=hashes,
                torch_version=str(torch.__version__),
                compiled=None if compiled is None else compiled.record,
            )
            text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
            (draft / MANIFEST_NAME).write_bytes(text + b"\n")
    except VersionExists as error:
        raise PolicyDirectoryInvalid(
            path=target, found=error.found, wanted="a version not there"
        ) from error
    return target


def read_manifest(directory: Path) -> Manifest:
    """Returns the manifest of a version. Raises `PolicyDirectoryInvalid`."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise PolicyDirectoryInvalid(path=path, found="no file", wanted="the version's manifest")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise PolicyDirectoryInvalid(path=path, found=str(error), wanted="a manifest") from error
    if str(manifest.policy_version) != directory.name:
        found = f"policy_version {manifest.policy_version}"
        raise PolicyDirectoryInvalid(path=path, found=found, wanted=directory.name)
    return manifest


def load_version(directory: Path) -> LoadedPolicy:
    """Returns the version after checking every file's hash; one without neighbours has none.

    Raises `PolicyDirectoryInvalid`, `TensorFileInvalid` or `ItemIndexInvalid`, naming the file.
    """
    manifest = read_manifest(directory)
    reranks = NEIGHBOURS_NAME in manifest.files
    for name in (*FILES, NEIGHBOURS_NAME) if reranks else FILES:
        path = directory / name
        if not path.is_file():
            raise PolicyDirectoryInvalid(path=path, found="no file", wanted="a file of the version")
        if (found := sha256_of(path)) != (wanted := manifest.files.get(name, "")):
            raise PolicyDirectoryInvalid(path=path, found=f"sha256 {found}", wanted=wanted)
    generator = load_generator(directory, WEIGHTS_NAME)
    index = load_index(directory)
    _check_belongs(directory, manifest, generator, index)
    neighbours = load_neighbours(directory) if reranks else None
    return LoadedPolicy(manifest=manifest, generator=generator, index=index, neighbours=neighbours)


def published_versions(repository: Path) -> list[int]:
    """Returns the versions in a model's folder, rising."""
    if not repository.is_dir():
        return []
    names = [path.name for path in repository.iterdir() if (path / MANIFEST_NAME).is_file()]
    return sorted(int(name) for name in names if name.isdecimal())


def _check_writable(
    repository: Path, manifest: Manifest, generator: Generator, index: ItemIndex
) -> None:
    target = repository / str(manifest.policy_version)
    if manifest.policy_version < 1:
        raise PolicyDirectoryInvalid(path=target, found=target.name, wanted="a version from 1 up")
    if target.exists():
        raise PolicyDirectoryInvalid(path=target, found="a directory", wanted="a version not there")
    _check_belongs(target, manifest, generator, index)


def _check_belongs(
    directory: Path, manifest: Manifest, generator: Generator, index: ItemIndex
) -> None:
    """Raises `PolicyDirectoryInvalid` when manifest, weights and index are not of one version."""
    config = generator.config
    sizes = {
        "levels": (index.depth, config.levels),
        "content dimensions": (index.content_NC.shape[1], config.content_dim),
        "scenarios in the index": (len(index.scenarios_KN), len(manifest.scenarios)),
        "scenarios of the weights": (config.scenarios, len(manifest.scenarios)),
    }
    for what, (found, wanted) in sizes.items():
        if found != wanted:
            raise PolicyDirectoryInvalid(
                path=directory, found=f"{found} {what}", wanted=str(wanted)
            )
    if (largest := int(index.codes_NL.max())) >= config.codes:
        wanted_text = f"codes below {config.codes}"
        raise PolicyDirectoryInvalid(path=directory, found=f"code {largest}", wanted=wanted_text)
