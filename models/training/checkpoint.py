"""Where a training run stands, in one file: a killed run goes on as if nothing had happened.

One safetensors file, replaced by one rename: weights, AdamW's moments, both random generators, the
rows of the epoch still to come, and the losses so far. It names what it belongs to by a hash of
data and configuration: going on with other data is refused.
"""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.policy.optimizer_state import load_moments, moments_of
from models.tensor_file import read_tensors, write_tensors
from schemas.errors import OxygenRecError

_WEIGHTS, _MOMENTS, _BELONGS_TO = "weights.", "moments.", "belongs_to"


class CheckpointOfAnotherRun(OxygenRecError):
    """A checkpoint that was made with other data, another configuration or other code."""

    def __init__(self, *, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path}: found a run on other data or with another configuration, wanted this run's;"
            " delete the file to begin anew, or give back what the run was started with"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointing:
    """Where the checkpoint rests, and after how many steps it is written."""

    path: Path
    every: int = 50


@dataclass(slots=True, kw_only=True)
class Position:
    """How far a run is. `losses` has a row a step done: epoch, and the losses of `Progress`."""

    step: int
    epoch: int
    order: torch.Tensor
    losses: list[list[float]]


def save_position(
    path: Path,
    belongs_to: str,
    position: Position,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
) -> None:
    """Writes the state after a step; a kill at any moment leaves the old file or the new one."""
    tensors = {
        "step": torch.tensor([position.step, position.epoch]),
        "order": position.order,
        "losses": torch.tensor(position.losses, dtype=torch.float64),
        "rng": rng.get_state(),
        "torch_rng": torch.get_rng_state(),
        _BELONGS_TO: torch.tensor(list(bytes.fromhex(belongs_to)), dtype=torch.uint8),
    }
    if (device := next(model.parameters()).device).type == "cuda":
        tensors["cuda_rng"] = torch.cuda.get_rng_state(device)  # dropout draws from it there
    tensors |= {_WEIGHTS + name: tensor for name, tensor in model.state_dict().items()}
    tensors |= {_MOMENTS + name: tensor for name, tensor in moments_of(optimizer, model).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    write_tensors(draft, {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})
    draft.replace(path)


def load_position(
    path: Path,
    belongs_to: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
) -> Position | None:
    """Puts everything back and returns the position; None where there is no file.

    Raises `CheckpointOfAnotherRun`, `TensorFileInvalid`.
    """
    if not path.is_file():
        return None
    arrays = read_tensors(path, require=("step", "order", "losses", "rng", _BELONGS_TO))
    if arrays[_BELONGS_TO].tobytes().hex() != belongs_to:
        raise CheckpointOfAnotherRun(path=path)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model.load_state_dict(_below(_WEIGHTS, tensors))
    load_moments(optimizer, model, _below(_MOMENTS, tensors))
    rng.set_state(tensors["rng"])
    torch.set_rng_state(tensors["torch_rng"])
    if "cuda_rng" in tensors:
        torch.cuda.set_rng_state(tensors["cuda_rng"], next(model.parameters()).device)
    step, epoch = tensors["step"].tolist()
    losses = tensors["losses"].tolist()
    return Position(step=step, epoch=epoch, order=tensors["order"], losses=losses)


def run_hash(configuration: str, tensors: list[torch.Tensor]) -> str:
    """Returns the hash of what decides a run: its configuration in words, and its data."""
    digest = sha256(configuration.encode())
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
