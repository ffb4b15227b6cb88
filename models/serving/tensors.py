"""One request and one answer as the tensors of docs/contracts.md, batch dimension 1 in front.

Torch alone: inside Triton's stub tensors come and go through DLPack (its numpy accessors return
nothing with numpy 2).
"""

from collections.abc import Mapping, Sequence

import torch

from models.decoding.item_index import UNKNOWN
from schemas.generation import BadGenerationRequest, GenerationRequest, GenerationResponse
from schemas.impressions import HistoryFeatures

HISTORY = ("HISTORY_KEYS", "HISTORY_ACTIONS", "HISTORY_GAPS")
INPUTS = (
    *HISTORY,
    "SCENARIO",
    "TRIGGER",
    "INSTRUCTION",
    "HAS_INSTRUCTION",
    "EXCLUDE",
    "BEAMS",
)


def request_of(tensors: Mapping[str, torch.Tensor], scenarios: Sequence[str]) -> GenerationRequest:
    """Returns the request. Raises `BadGenerationRequest` for shapes or numbers that make none."""
    for name in INPUTS:
        if tensors[name].dim() != 2 or len(tensors[name]) != 1:
            found = f"shape {list(tensors[name].shape)}"
            raise BadGenerationRequest(field=name, found=found, wanted="[1, n]")
    trigger = _single(tensors, "TRIGGER")
    told = _single(tensors, "HAS_INSTRUCTION") != 0
    excluded = tensors["EXCLUDE"][0].tolist()
    return GenerationRequest(
        scenario=_scenario(_single(tensors, "SCENARIO"), scenarios),
        history=_history(tensors),
        beams=_single(tensors, "BEAMS"),
        trigger_key=None if trigger == UNKNOWN else trigger,
        instruction=tensors["INSTRUCTION"][0].numpy().tobytes() if told else None,
        exclude_keys=[key for key in excluded if key != UNKNOWN],
    )


def response_tensors(response: GenerationResponse, levels: int) -> dict[str, torch.Tensor]:
    """Returns the answer's tensors by name; an answer without items has M = 0."""
    items = response.items
    versions = [response.generation, response.policy_version, response.index_offset]
    return {
        "ITEM_KEYS": torch.tensor([[item.item_key for item in items]], dtype=torch.int64),
        "ITEM_CODES": _rows([item.sid for item in items], torch.int32, levels),
        "ITEM_LOGPROBS": _rows([item.logprobs for item in items], torch.float32, levels),
        "ITEM_SCORES": torch.tensor([[item.score for item in items]], dtype=torch.float32),
        "ITEM_TABLE_TERMS": torch.tensor([[i.table_term for i in items]], dtype=torch.float32),
        "VERSIONS": torch.tensor([versions], dtype=torch.int64),
    }


def _rows(rows: Sequence[Sequence[float]], dtype: torch.dtype, levels: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype).reshape(1, len(rows), levels)


def _single(tensors: Mapping[str, torch.Tensor], name: str) -> int:
    if tensors[name].shape[1] != 1:
        found = f"{tensors[name].shape[1]} numbers"
        raise BadGenerationRequest(field=name, found=found, wanted="one number")
    return int(tensors[name][0, 0])


def _scenario(number: int, scenarios: Sequence[str]) -> str:
    if not 0 <= number < len(scenarios):
        wanted = f"0 to {len(scenarios) - 1} ({', '.join(scenarios)})"
        raise BadGenerationRequest(field="SCENARIO", found=str(number), wanted=wanted)
    return scenarios[number]


def _history(tensors: Mapping[str, torch.Tensor]) -> HistoryFeatures:
    lengths = [tensors[name].shape[1] for name in HISTORY]
    if len(set(lengths)) > 1:
        found = f"lengths {lengths}"
        raise BadGenerationRequest(field=HISTORY[0], found=found, wanted="three aligned lists")
    triples = zip(*(tensors[name][0].tolist() for name in HISTORY), strict=True)
    kept = [triple for triple in triples if triple[0] != UNKNOWN]
    return HistoryFeatures(
        item_keys=[key for key, _, _ in kept],
        action_codes=[action for _, action, _ in kept],
        gap_buckets=[gap for _, _, gap in kept],
    )
