"""One training step on several processes: each takes a share of the rows, gradients are added up.

Every process draws the same batch from the same seed, so the shares need no exchange; the step is
that of one process with the whole batch, up to rounding. Two parts are a process's own: the
in-batch statistics of the Q2I and the load-balance loss, and dropout. Left out: sharding of weights
and moments (FSDP), overlap of the exchange with the backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which of `count` processes this is."""

    rank: int = 0
    count: int = 1

    def places(self, rows: int) -> tuple[torch.Tensor, float]:
        """Returns which of a batch's rows are this process's, and their weight in its mean.

        With fewer rows than processes each takes them all: nobody may miss the exchange.
        """
        if rows < self.count:
            return torch.arange(rows), 1 / self.count
        mine = torch.arange(self.rank, rows, self.count)
        return mine, len(mine) / rows

    def add_up(self, losses: Sequence[float], weight: float) -> list[float]:
        """Returns the means over the whole batch of the processes' means."""
        if self.count == 1:
            return list(losses)
        total = torch.tensor(losses, dtype=torch.float64) * weight
        torch.distributed.all_reduce(total)
        return [float(one) for one in total]

    def add_up_gradients(self, model: nn.Module) -> None:
        """Replaces every gradient by the sum over processes, in one exchange.

        A parameter that no process used keeps none: AdamW must not decay what was not trained.
        """
        if self.count == 1:
            return
        parameters = list(model.parameters())
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([used.to(parts[0]), *(part.flatten() for part in parts)])
        torch.distributed.all_reduce(flat)
        flags, *summed = flat.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, flag, gradient in zip(parameters, flags.tolist(), summed, strict=True):
            parameter.grad = gradient.view_as(parameter) if flag else None


def this_share() -> Share:
    """Returns this process's place in the group that `torch.distributed` was started with."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Share()
    return Share(rank=torch.distributed.get_rank(), count=torch.distributed.get_world_size())
