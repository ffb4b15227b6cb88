"""AdamW's moments and weights by parameter name, as plain tensors that safetensors can hold."""

from hashlib import sha256

import torch
from torch import nn


def moments_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns `moment:parameter` -> tensor for every parameter that has been stepped."""
    state = optimizer.state_dict()["state"]
    return {
        f"{moment}:{name}": tensor
        for position, (name, _) in enumerate(model.named_parameters())
        for moment, tensor in state.get(position, {}).items()
    }


def load_moments(
    optimizer: torch.optim.Optimizer, model: nn.Module, moments: dict[str, torch.Tensor]
) -> None:
    """Puts moments saved by `moments_of` into a fresh optimiser of the same model."""
    position_of = {name: position for position, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in moments.items():
        moment, _, name = key.partition(":")
        state.setdefault(position_of[name], {})[moment] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def weights_sha256(model: nn.Module) -> str:
    """Returns one hash over all weights: equal hashes mean bitwise equal weights."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
