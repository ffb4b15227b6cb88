"""Saves and loads a trainer's whole state: one directory a step, appearing by one atomic rename.

Weights, AdamW's moments, the random generator, the next offset and the last request ids are
written together, so a crash neither skips nor repeats a step. A state is only taken right after a
step: groups gathered towards the next one are read from the log again.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import OxygenRecError

KEPT = 3  # one to go on from, two for a look back; a tiny one has about 10 MB
_WEIGHTS, _OPTIMIZER, _TRAINER, _MANIFEST = (
    "weights.safetensors",
    "optimizer.safetensors",
    "trainer.safetensors",
    "manifest.json",
)


class FencedCheckpoint(OxygenRecError):
    """A writer with a larger epoch has written here: this process is no longer the trainer."""

    def __init__(self, *, root: Path, epoch: int, found: int) -> None:
        self.epoch = epoch
        self.found = found
        super().__init__(
            f"{root}: found a checkpoint of epoch {found}, this trainer has epoch {epoch}: another"
            " trainer took over; stop this one"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointManifest:
    """The numbers of a state; `next_offset` is the first offset of `rewards` not folded in."""

    step: int
    next_offset: int
    generation: int
    epoch: int
    logprob_mismatch_max: float
    torch_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState:
    """Everything a trainer goes on from. `optimizer` maps `moment:parameter` to tensors."""

    manifest: CheckpointManifest
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    random_state: torch.Tensor
    request_ids: torch.Tensor  # int64 hashes, oldest first


def save_checkpoint(root: Path, state: TrainerState) -> Path:
    """Writes `root/<step>` so that it is there whole or not at all; keeps the last 3.

    Raises FencedCheckpoint when a larger epoch has written here.
    """
    newest = latest_manifest(root)
    if newest is not None and newest.epoch > state.manifest.epoch:
        raise FencedCheckpoint(root=root, epoch=state.manifest.epoch, found=newest.epoch)
    target = root / f"{state.manifest.step:08d}"
    unfinished = root / f".{target.name}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file(_plain(state.weights), unfinished / _WEIGHTS)
    save_file(_plain(state.optimizer), unfinished / _OPTIMIZER)
    loose = {"random_state": state.random_state, "request_ids": state.request_ids}
    save_file(_plain(loose), unfinished / _TRAINER)
    (unfinished / _MANIFEST).write_bytes(msgspec.json.encode(state.manifest))
    for path in (*unfinished.iterdir(), unfinished):
        _sync(path)
    if target.exists():  # a rejected publish: the same step again, with the served weights
        shutil.rmtree(target)
    unfinished.rename(target)
    _sync(root)
    _prune(root)
    return target


def load_checkpoint(root: Path) -> TrainerState | None:
    """Returns the newest state below `root`, or None when there is none yet."""
    newest = _directories(root)
    if not newest:
        return None
    directory = newest[-1]
    loose = load_file(directory / _TRAINER)
    return TrainerState(
        manifest=_manifest(directory),
        weights=load_file(directory / _WEIGHTS),
        optimizer=load_file(directory / _OPTIMIZER),
        random_state=loose["random_state"],
        request_ids=loose["request_ids"],
    )


def latest_manifest(root: Path) -> CheckpointManifest | None:
    """Returns the numbers of the newest state below `root`, or None when there is none yet."""
    newest = _directories(root)
    return _manifest(newest[-1]) if newest else None


def _manifest(directory: Path) -> CheckpointManifest:
    return msgspec.json.decode((directory / _MANIFEST).read_bytes(), type=CheckpointManifest)


def _directories(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name.isdigit())


def _prune(root: Path) -> None:
    for path in _directories(root)[:-KEPT]:
        shutil.rmtree(path)


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # safetensors refuses tensors that share memory (tied weights) or have strides.
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
