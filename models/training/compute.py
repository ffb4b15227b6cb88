"""Where a run computes and how precisely: a device, float32 or bf16 autocast, compiled or not.

Under bf16 the layers' products alone are bf16: weights, moments, logits and losses stay float32, so
there is no loss scaling. What is compiled are the layers, one by one: between them the loop's
history widths and IGR's choice change shape from step to step. The examples stay in the host's
memory, a step's rows are sent. Left out: float16, TF32, CUDA graphs.
"""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from models.generator.generator import Generator
from schemas.errors import OxygenRecError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bf16"]


class ComputeUnavailable(OxygenRecError):
    """What was asked for is not to be had on this machine; `field` is a key of `[training]`."""

    def __init__(self, *, field: str, found: str, wanted: str) -> None:
        self.field = field
        self.found = found
        self.wanted = wanted
        super().__init__(f"training.{field}: found {found}, wanted {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """One process's device, and how it computes there."""

    device: torch.device
    precision: Precision
    compiled: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context of a forward pass; with float32 it changes nothing."""
        bf16 = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16)

    def prepare(self, generator: Generator) -> None:
        """Moves the weights to the device and compiles the layers; names of weights stay."""
        generator.to(self.device)
        if self.compiled:
            compile_layers(generator)


def compute_of(device: Device, precision: Precision, *, compiled: bool) -> Compute:
    """Returns what `[training]` asks for, on this process's card under torchrun.

    Raises `ComputeUnavailable`.
    """
    cards = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and cards == 0):
        if compiled:
            raise ComputeUnavailable(
                field="compile", found="true on cpu", wanted="false, or a CUDA device"
            )
        return Compute(device=torch.device("cpu"), precision=precision, compiled=False)
    card = int(os.environ.get("LOCAL_RANK", "0"))  # torchrun's number of this process on its host
    if card >= cards:
        found = f"{cards} CUDA devices (torch {torch.__version__})"
        wanted = f"{card + 1}, one a process; or device = 'cpu'"
        raise ComputeUnavailable(field="device", found=found, wanted=wanted)
    name, (major, minor) = torch.cuda.get_device_name(card), torch.cuda.get_device_capability(card)
    if precision == "bf16" and major < 8:
        found = f"bf16 on {name} (compute capability {major}.{minor})"
        raise ComputeUnavailable(field="precision", found=found, wanted="8.0 or newer, or float32")
    torch.cuda.set_device(card)
    return Compute(device=torch.device("cuda", card), precision=precision, compiled=compiled)


def compile_layers(generator: Generator, backend: str = "inductor") -> None:
    """Compiles every layer of encoder and decoder in place, at its first call."""
    for layer in (*generator.encoder.layers, *generator.decoder.layers):
        layer.compile(backend=backend)
