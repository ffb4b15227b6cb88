"""A folder that Triton may read at any moment: it appears whole, by one atomic rename, and stays.

A version without model.py hangs Triton's `load` for ever. A crash leaves at most a hidden folder,
which Triton ignores. No torch: the text encoder's version is written by agents.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp

from schemas.errors import OxygenRecError

CONFIG_NAME = "config.pbtxt"
MODEL_NAME = "model.py"
MANIFEST_NAME = "manifest.json"
# Python would write its bytecode here on the first import, and Triton loads a version anew whose
# folder has changed: every publish would restart the parent's process too. This file is in its way.
BYTECODE_GUARD_NAME = "__pycache__"


class VersionExists(OxygenRecError):
    """A version is written once: its place is taken."""

    def __init__(self, *, path: Path, found: str) -> None:
        self.path = path
        self.found = found
        super().__init__(f"{path}: found {found}, wanted a version not there; take another number")


@contextmanager
def version_draft(target: Path, model_line: str) -> Iterator[Path]:
    """Yields a hidden folder with model.py in it; left without an error, it becomes `target`.

    Raises `VersionExists` when `target` holds something already.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        (draft / MODEL_NAME).write_text(model_line)
        (draft / BYTECODE_GUARD_NAME).touch()
        yield draft
        _sync(draft)
        draft.chmod(0o755)
        _rename(draft, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def replace_config(repository: Path, text: str) -> Path:
    """Replaces a model's config.pbtxt atomically; returns it."""
    with NamedTemporaryFile("w", dir=repository, prefix=".config-", delete=False) as draft:
        draft.write(text)
    Path(draft.name).chmod(0o644)
    return Path(draft.name).replace(repository / CONFIG_NAME)


def _rename(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError as error:
        raise VersionExists(path=target, found=error.strerror or str(error)) from error


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
