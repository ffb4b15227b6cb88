"""The decoder's prefix: BOS, the scenario token I_s and the instruction token I_r (OxygenREC,
section 3.2).

Legend: B requests, C content dimensions, D width, P prefix tokens (2 or 3).
"""

from collections.abc import Callable

import torch
from torch import nn

from models.decoding.item_index import UNKNOWN
from models.generator.batch import Batch
from models.generator.config import GeneratorConfig, InstructionPosition

# bos, I_s, I_r -> the prefix's tokens, left to right (OxygenREC, Table 5)
Layout = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
LAYOUTS: dict[InstructionPosition, Layout] = {
    InstructionPosition.NONE: lambda bos, scenario, _: (bos, scenario),
    InstructionPosition.REPLACE_BOS: lambda _, scenario, told: (told, scenario),
    InstructionPosition.ADD_TO_BOS: lambda bos, scenario, told: (bos + told, scenario),
    InstructionPosition.LEFT_OF_BOS: lambda bos, scenario, told: (told, bos, scenario),
    InstructionPosition.RIGHT_OF_BOS: lambda bos, scenario, told: (bos, scenario, told),
}


class Prefix(nn.Module):
    """Makes the prefix. I_s fuses scenario and optional trigger item into one token; I_r adapts the
    dense instruction.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = config.width
        self.layout = LAYOUTS[config.instruction_position]
        self.bos = nn.Parameter(torch.randn(width) * 0.02)
        self.scenarios = nn.Embedding(config.scenarios, width)
        self.no_trigger = nn.Parameter(torch.randn(width) * 0.02)
        self.scale = config.content_dim**0.5  # a unit vector's numbers to variance 1
        self.fuse = nn.Linear(2 * width, width)
        self.adapter = nn.Sequential(
            nn.Linear(config.content_dim, width), nn.GELU(), nn.Linear(width, width)
        )
        self.no_instruction = nn.Parameter(torch.randn(width) * 0.02)
        most = len(LAYOUTS[InstructionPosition.RIGHT_OF_BOS](self.bos, self.bos, self.bos))
        self.positions = nn.Parameter(torch.randn(most, width) * 0.02)

    def scenario(self, batch: Batch, trigger_BD: torch.Tensor) -> torch.Tensor:
        """Returns I_s [B, D]; `trigger_BD` is used where the batch has a trigger item."""
        has_trigger_B1 = (batch.trigger_B != UNKNOWN).unsqueeze(1)
        trigger_BD = torch.where(has_trigger_B1, trigger_BD, self.no_trigger)
        fused_BD: torch.Tensor = self.fuse(
            torch.cat([self.scenarios(batch.scenario_B), trigger_BD], dim=1)
        )
        return fused_BD

    def forward(self, batch: Batch, scenario_BD: torch.Tensor) -> torch.Tensor:
        """Returns the prefix [B, P, D] around I_s."""
        told_BD = torch.where(
            batch.has_instruction_B.unsqueeze(1),
            self.adapter((batch.instruction_BC * self.scale).to(self.bos.dtype)),
            self.no_instruction,
        )
        tokens = self.layout(self.bos.expand_as(told_BD), scenario_BD, told_BD)
        return torch.stack(tokens, dim=1) + self.positions[: len(tokens)]
