"""Requests to tensors, in one place: serving, training and the trainer's parity check all collate
here.

Legend: B requests, S history positions (left-aligned, oldest first), C content dimensions, E
excluded keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Self

import numpy as np
import torch

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.features import GAP_BUCKETS
from models.vectors import VectorInvalid, unpack
from schemas.actions import ActionType
from schemas.generation import BadGenerationRequest, GenerationRequest
from schemas.impressions import HistoryFeatures

MAX_BEAMS = 512  # ten times the default; beyond it the latency of a neighbour in the batch suffers
MAX_HISTORY = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the generator is conditioned on. Rows are rows of the item index; -1 is padding or
    absent.

    `instruction_BC` is float32 holding fp16-rounded numbers; where `has_instruction_B` is False it
    is ignored.
    """

    rows_BS: torch.Tensor
    actions_BS: torch.Tensor
    gaps_BS: torch.Tensor
    scenario_B: torch.Tensor
    trigger_B: torch.Tensor
    instruction_BC: torch.Tensor
    has_instruction_B: torch.Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.scenario_B)

    def select(self, numbers: torch.Tensor) -> Self:
        """Returns the requests at `numbers` (int64 indices or a bool mask), in that order."""
        return type(self)(**{f.name: getattr(self, f.name)[numbers] for f in fields(self)})


def check_request(
    request: GenerationRequest, *, scenarios: Sequence[str], content_dim: int
) -> None:
    """Raises `BadGenerationRequest` for a request that cannot be collated."""
    if request.scenario not in scenarios:
        _refuse("scenario", repr(request.scenario), f"one of {', '.join(scenarios)}")
    if not 1 <= request.beams <= MAX_BEAMS:
        _refuse("beams", str(request.beams), f"1 to {MAX_BEAMS}")
    _check_history(request.history)
    if request.instruction is not None:
        try:
            unpack(request.instruction, content_dim)
        except VectorInvalid as error:
            _refuse("instruction", error.found, error.wanted)


def collate(
    requests: Sequence[GenerationRequest], index: ItemIndex, scenarios: Sequence[str]
) -> Batch:
    """Returns the batch of checked requests. History items the index does not hold are left out.

    Raises `BadGenerationRequest` for an unknown scenario.
    """
    content_dim = index.content_NC.shape[1]
    for request in requests:
        check_request(request, scenarios=scenarios, content_dim=content_dim)
    rows_BS, actions_BS, gaps_BS = _histories([request.history for request in requests], index)
    instruction = np.zeros((len(requests), content_dim), dtype=np.float32)
    for row, request in zip(instruction, requests, strict=True):
        if request.instruction is not None:
            row[:] = unpack(request.instruction, content_dim)
    place = {name: number for number, name in enumerate(scenarios)}
    triggers = [UNKNOWN if r.trigger_key is None else r.trigger_key for r in requests]
    return Batch(
        rows_BS=rows_BS,
        actions_BS=actions_BS,
        gaps_BS=gaps_BS,
        scenario_B=torch.tensor([place[r.scenario] for r in requests], dtype=torch.int64),
        trigger_B=index.rows_of(torch.tensor(triggers, dtype=torch.int64)),
        instruction_BC=torch.from_numpy(instruction),
        has_instruction_B=torch.tensor([r.instruction is not None for r in requests]),
    )


def excluded_keys(requests: Sequence[GenerationRequest]) -> torch.Tensor:
    """Returns the requests' excluded item keys, int64 [B, E], padded with -1."""
    longest = max((len(request.exclude_keys) for request in requests), default=0)
    padded = np.full((len(requests), longest), UNKNOWN, dtype=np.int64)
    for row, request in zip(padded, requests, strict=True):
        row[: len(request.exclude_keys)] = request.exclude_keys
    return torch.from_numpy(padded)


def _histories(
    histories: Sequence[HistoryFeatures], index: ItemIndex
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns rows, actions and gaps [B, S] of the items that the index holds, all histories in one
    pass.
    """
    lists = [(h.item_keys, h.action_codes, h.gap_buckets) for h in histories]
    flat = [
        np.array([*chain.from_iterable(column)], dtype=np.int64)
        for column in zip(*lists, strict=True)
    ]
    rows = index.rows_of(torch.from_numpy(flat[0])).numpy()
    number = np.repeat(np.arange(len(lists)), [len(keys) for keys, _, _ in lists])
    known = rows != UNKNOWN
    number = number[known]
    counts = np.bincount(number, minlength=len(lists))
    place = np.arange(len(number)) - np.repeat(counts.cumsum() - counts, counts)
    padded = np.zeros((3, len(lists), counts.max(initial=0)), dtype=np.int64)
    padded[0] = UNKNOWN
    padded[:, number, place] = np.stack([rows, flat[1], flat[2]])[:, known]
    rows_BS, actions_BS, gaps_BS = torch.from_numpy(padded)
    return rows_BS, actions_BS, gaps_BS


def _check_history(history: HistoryFeatures) -> None:
    lengths = [len(history.item_keys), len(history.action_codes), len(history.gap_buckets)]
    if len(set(lengths)) > 1:
        _refuse("history", f"lists of lengths {lengths}", "three aligned lists")
    if lengths[0] > MAX_HISTORY:
        _refuse("history", f"{lengths[0]} items", f"at most {MAX_HISTORY}")
    for field, values, limit in (
        ("history.action_codes", history.action_codes, len(ActionType)),
        ("history.gap_buckets", history.gap_buckets, GAP_BUCKETS),
    ):
        if wrong := [value for value in values if not 0 <= value < limit]:
            _refuse(field, str(wrong[0]), f"0 to {limit - 1}")


def _refuse(field: str, found: str, wanted: str) -> None:
    raise BadGenerationRequest(field=field, found=found, wanted=wanted)
