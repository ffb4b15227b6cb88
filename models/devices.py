"""Tensors and dataclasses of tensors from the host to a device."""

from dataclasses import fields, is_dataclass, replace
from typing import TypeVar, cast

import torch

T = TypeVar("T")


def moved(value: T, device: torch.device) -> T:
    """Returns a tensor, or a dataclass or tuple of such, with all its tensors on the device."""
    if isinstance(value, torch.Tensor):
        return cast("T", value.to(device))
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: moved(getattr(value, f.name), device) for f in fields(value)}
        return replace(value, **parts)
    if isinstance(value, tuple):
        inside = [moved(one, device) for one in value]
        return cast("T", type(value)(*inside) if hasattr(value, "_fields") else tuple(inside))
    return value
