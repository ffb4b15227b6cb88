"""Examples as tensors, and the draw that decides which instruction a row is trained with.

Legend: R rows, B rows of one step, T texts, C content dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.generator.batch import Batch, collate
from models.training.examples import NO_TEXT, Example
from schemas.generation import GenerationRequest

CHUNK = 4_096  # requests collated at once


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionDropout:
    """Probabilities that the default, or an older instruction, replaces a row's own."""

    default: float = 0.3
    older: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleTensors:
    """Everything a step selects from. `texts_TC` holds fp16-rounded vectors, as served."""

    conditions: Batch
    target_R: torch.Tensor
    weight_R: torch.Tensor
    text_R: torch.Tensor
    older_R: torch.Tensor
    texts_TC: torch.Tensor

    @classmethod
    def build(
        cls,
        rows: Sequence[Example],
        vectors: npt.NDArray[np.float32],
        index: ItemIndex,
        scenarios: Sequence[str],
    ) -> Self:
        """Returns the rows whose target the index holds; `vectors` [T, C] are the texts'."""
        targets = index.rows_of(torch.tensor([r.target_key for r in rows], dtype=torch.int64))
        kept = [
            row for row, known in zip(rows, (targets != UNKNOWN).tolist(), strict=True) if known
        ]
        parts = [
            collate([_request(row) for row in kept[start : start + CHUNK]], index, scenarios)
            for start in range(0, len(kept), CHUNK)
        ]
        return cls(
            conditions=_joined(parts),
            target_R=targets[targets != UNKNOWN],
            weight_R=torch.tensor([row.weight for row in kept]),
            text_R=torch.tensor([row.text for row in kept], dtype=torch.int64),
            older_R=torch.tensor([row.older_text for row in kept], dtype=torch.int64),
            texts_TC=torch.from_numpy(vectors.astype(np.float16).astype(np.float32)),
        )

    def __len__(self) -> int:
        """R."""
        return len(self.target_R)

    def draw(
        self, numbers_B: torch.Tensor, dropout: InstructionDropout, generator: torch.Generator
    ) -> Batch:
        """Returns the conditions of these rows, each with own, older or default instruction."""
        chance_B = torch.rand(len(numbers_B), generator=generator)
        text_B = torch.where(
            chance_B < dropout.default + dropout.older,
            self.older_R[numbers_B],
            self.text_R[numbers_B],
        )
        text_B = torch.where(chance_B < dropout.default, NO_TEXT, text_B)
        told_B = text_B != NO_TEXT
        vectors_BC = torch.zeros(len(numbers_B), self.texts_TC.shape[1])
        vectors_BC[told_B] = self.texts_TC[text_B[told_B]]
        conditions = self.conditions.select(numbers_B)
        return replace(conditions, instruction_BC=vectors_BC, has_instruction_B=told_B)


def newest(batch: Batch, limit: int) -> Batch:
    """Returns the batch with at most the newest `limit` history positions of every row."""
    length_B = (batch.rows_BS != UNKNOWN).sum(dim=1)
    width = min(limit, int(length_B.max()) if len(length_B) else 0)
    first_B1 = (length_B - width).clamp(min=0).unsqueeze(1)
    place_BW = (first_B1 + torch.arange(width)).clamp(max=max(0, batch.rows_BS.shape[1] - 1))
    real_BW = torch.arange(width) < length_B.unsqueeze(1)
    return replace(
        batch,
        rows_BS=batch.rows_BS.gather(1, place_BW).masked_fill(~real_BW, UNKNOWN),
        actions_BS=batch.actions_BS.gather(1, place_BW).masked_fill(~real_BW, 0),
        gaps_BS=batch.gaps_BS.gather(1, place_BW).masked_fill(~real_BW, 0),
    )


def _request(row: Example) -> GenerationRequest:
    return GenerationRequest(
        scenario=row.scenario, history=row.history, beams=1, trigger_key=row.trigger_key
    )


def _joined(parts: Sequence[Batch]) -> Batch:
    """Concatenates collated parts, their histories padded to the longest."""
    longest = max(part.rows_BS.shape[1] for part in parts)

    def history(name: str, padding: int) -> torch.Tensor:
        columns = (getattr(part, name) for part in parts)
        return torch.cat(
            [torch.nn.functional.pad(c, (0, longest - c.shape[1]), value=padding) for c in columns]
        )

    return Batch(
        rows_BS=history("rows_BS", UNKNOWN),
        actions_BS=history("actions_BS", 0),
        gaps_BS=history("gaps_BS", 0),
        scenario_B=torch.cat([part.scenario_B for part in parts]),
        trigger_B=torch.cat([part.trigger_B for part in parts]),
        instruction_BC=torch.cat([part.instruction_BC for part in parts]),
        has_instruction_B=torch.cat([part.has_instruction_B for part in parts]),
    )
