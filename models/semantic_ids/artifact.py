"""Semantic IDs on disk: one folder a codebook version, which never changes; it only grows.

    manifest.json  codebooks.safetensors  item_features.*  text_encoder.* (the built-in one)
    assignments/000001/  manifest.json  assignments.safetensors   the items of the fit
    assignments/000002/  ...                                      items that came later

A version and a segment appear by one atomic rename. A segment holds new items alone, so a published
SID cannot move. Each manifest names its files' sha256; a segment's also names its codebooks and the
manifest before it: a torn folder, or one mixed from two, is refused. numpy only.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

import msgspec
from msgspec import Struct

from models.semantic_ids.assigned_items import AssignedItems
from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.item_features import ItemFeatures
from schemas.errors import OxygenRecError

FORMAT = "semantic-ids/1"
MANIFEST = "manifest.json"
SEGMENTS = "assignments"


class ArtifactInvalid(OxygenRecError):
    """A folder that is not a whole version of semantic IDs."""

    def __init__(self, *, path: Path, found: str, wanted: str) -> None:
        self.path = path
        self.found = found
        self.wanted = wanted
        super().__init__(f"{path}: found {found}, wanted {wanted}; restore the folder or fit anew")


class ArtifactExists(OxygenRecError):
    """What is published is there already, and published semantic IDs are never written over."""

    def __init__(self, *, path: Path) -> None:
        self.path = path
        super().__init__(f"{path}: found it in place, wanted a new path: published IDs never move")


class EncoderRecord(Struct, frozen=True, kw_only=True):
    """The text encoder: `kind` is builtin, minilm or folder; `encoder_id` hashes its parameters."""

    kind: str
    encoder_id: str


class VersionManifest(Struct, frozen=True, kw_only=True):
    """What one codebook version was made of. `codebook_id` is a hash of its files."""

    format: str
    codebook_id: str
    created_ms: int
    encoder: EncoderRecord
    levels: int
    codes: int
    dim: int
    items: int
    interactions: int
    queries: int
    dropped: dict[str, int]
    settings: dict[str, object]
    files: dict[str, str]


class SegmentManifest(Struct, frozen=True, kw_only=True):
    """One append: `previous` is the sha256 of the manifest before it (the version's for the
    first).
    """

    codebook_id: str
    previous: str
    created_ms: int
    items: int
    dropped: dict[str, int]
    files: dict[str, str]


Manifest = TypeVar("Manifest", VersionManifest, SegmentManifest)


class Version:
    """An opened version: its parts and everything assigned so far, each file verified."""

    def __init__(self, folder: Path) -> None:
        """Reads `folder`. Raises `ArtifactInvalid`."""
        self.folder = folder
        self.manifest = _read(folder / MANIFEST, VersionManifest)
        if self.manifest.format != FORMAT:
            raise ArtifactInvalid(path=folder, found=self.manifest.format, wanted=FORMAT)
        _verify(folder, self.manifest.files)
        if (found := _codebook_id(self.manifest.files)) != self.manifest.codebook_id:
            raise ArtifactInvalid(
                path=folder / MANIFEST, found=f"codebooks {found}", wanted=self.manifest.codebook_id
            )
        self.codebooks = Codebooks.load(folder)
        self.features = ItemFeatures.load(folder)
        self._newest, segments = folder, []
        for segment in _segment_folders(folder):
            segments.append(self._segment(segment))
            self._newest = segment
        if not segments:
            raise ArtifactInvalid(path=folder / SEGMENTS, found="no segment", wanted="000001")
        self.segments = len(segments)
        self.items = AssignedItems.concatenated(segments)

    def append(self, items: AssignedItems, dropped: dict[str, int], created_ms: int) -> Path:
        """Publishes new items as the next segment and returns its folder.

        Raises `ArtifactExists` where an item has an SID already, or where another process appended
        meanwhile.
        """
        known = set(self.items.item_ids)
        if again := [item_id for item_id in items.item_ids if item_id in known]:
            raise ArtifactExists(path=self.folder / f"item {again[0]}")
        target = self.folder / SEGMENTS / f"{self.segments + 1:06d}"
        with published(target) as draft:
            previous = _digest(self._newest / MANIFEST)
            _write_segment(draft, items, self.manifest.codebook_id, previous, dropped, created_ms)
        return target

    def _segment(self, folder: Path) -> AssignedItems:
        manifest = _read(folder / MANIFEST, SegmentManifest)
        before = _digest(self._newest / MANIFEST)
        if manifest.codebook_id != self.manifest.codebook_id or manifest.previous != before:
            raise ArtifactInvalid(
                path=folder,
                found=f"a segment of codebooks {manifest.codebook_id}"
                f" after manifest {manifest.previous[:12]}",
                wanted=f"codebooks {self.manifest.codebook_id} after manifest {before[:12]}",
            )
        _verify(folder, manifest.files)
        return AssignedItems.load(folder)


def publish_version(
    target: Path,
    *,
    codebooks: Codebooks,
    features: ItemFeatures,
    save_encoder: Callable[[Path], None] | None,
    items: AssignedItems,
    about: dict[str, object],
) -> VersionManifest:
    """Writes a whole version to `target`, which must not exist, and returns its manifest.

    `about` holds the manifest's fields that only the fit knows. Raises `ArtifactExists`.
    """
    with published(target) as draft:
        codebooks.save(draft)
        features.save(draft)
        if save_encoder is not None:
            save_encoder(draft)
        files = {path.name: _digest(path) for path in sorted(draft.iterdir())}
        levels, codes, dim = codebooks.centroids.shape
        sizes = {"levels": levels, "codes": codes, "dim": dim, "items": len(items.item_ids)}
        identity = {"format": FORMAT, "codebook_id": _codebook_id(files), "files": files}
        manifest = msgspec.convert({**about, **sizes, **identity}, VersionManifest)
        _write(draft / MANIFEST, manifest)
        first = draft / SEGMENTS / "000001"
        first.mkdir(parents=True)
        previous = _digest(draft / MANIFEST)
        _write_segment(first, items, manifest.codebook_id, previous, {}, manifest.created_ms)
    return manifest


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Gives a draft folder that becomes `target` by one rename when the block ends well.

    Raises `ArtifactExists` when `target` is there, before or after the work.
    """
    if target.exists():
        raise ArtifactExists(path=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError as error:  # a folder that is not empty is never replaced
            raise ArtifactExists(path=target) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_segment(
    folder: Path,
    items: AssignedItems,
    codebook_id: str,
    previous: str,
    dropped: dict[str, int],
    created_ms: int,
) -> None:
    items.save(folder)
    manifest = SegmentManifest(
        codebook_id=codebook_id,
        previous=previous,
        created_ms=created_ms,
        items=len(items.item_ids),
        dropped=dropped,
        files={path.name: _digest(path) for path in sorted(folder.iterdir())},
    )
    _write(folder / MANIFEST, manifest)


def _segment_folders(folder: Path) -> list[Path]:
    """Returns the segments in order; a draft that a killed process left begins with a dot."""
    found = sorted(p for p in (folder / SEGMENTS).glob("*") if not p.name.startswith("."))
    for number, segment in enumerate(found, 1):
        if segment.name != f"{number:06d}":
            raise ArtifactInvalid(path=segment, found=segment.name, wanted=f"{number:06d}")
    return found


def _verify(folder: Path, files: dict[str, str]) -> None:
    for name, wanted in files.items():
        path = folder / name
        found = _digest(path) if path.is_file() else "no file"
        if found != wanted:
            raise ArtifactInvalid(path=path, found=found[:12], wanted=f"sha256 {wanted[:12]}")


def _read(path: Path, kind: type[Manifest]) -> Manifest:
    if not path.is_file():
        raise ArtifactInvalid(path=path, found="no file", wanted=kind.__name__)
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise ArtifactInvalid(path=path, found=str(error), wanted=kind.__name__) from error


def _write(path: Path, manifest: Struct) -> None:
    with path.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _codebook_id(files: dict[str, str]) -> str:
    named = "".join(f"{name}={files[name]};" for name in sorted(files))
    return sha256(named.encode()).hexdigest()[:16]
