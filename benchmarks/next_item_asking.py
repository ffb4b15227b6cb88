"""How the cases of `next_item` are asked, and what counts as found."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
from msgspec.structs import replace

from benchmarks.next_item_cases import Case
from benchmarks.next_item_generation import SCENARIO
from models.evaluation.steering import paired_difference
from models.features import build_history
from models.serving.engine import GeneratorEngine
from models.training.instructions import behaviour_of
from schemas.generation import GenerationRequest, GenerationResponse
from schemas.topics import DAY_MS

BEAMS = 50
KS = (5, 10, 50)  # 50: whether it is among the answers at all
BATCH = 16
RECENT = 20  # actions handed over, as serving does


def places(
    engine: GeneratorEngine,
    cases: Sequence[Case],
    instructions: Sequence[bytes | None],
    beams: int = BEAMS,
    recent: int = RECENT,
) -> list[int | None]:
    """Returns each target's place among the answers, None where it is not among them."""
    asked = [request_of(case, beams, recent) for case in cases]
    answers = _answers(engine, asked, instructions)
    return [_place(answer, case.target_key) for answer, case in zip(answers, cases, strict=True)]


def request_of(case: Case, beams: int = BEAMS, recent: int = RECENT) -> GenerationRequest:
    """Returns the request of a case a day after the last action; nothing of the past is wanted."""
    behaviour = [behaviour_of(action) for action in case.past]
    history = build_history(behaviour, case.past[-1].event_time_ms + DAY_MS, recent)
    return GenerationRequest(
        scenario=SCENARIO,
        history=history,
        beams=beams,
        exclude_keys=sorted({one.item_key for one in behaviour if one.item_key is not None}),
    )


def _answers(
    engine: GeneratorEngine,
    asked: Sequence[GenerationRequest],
    instructions: Sequence[bytes | None],
) -> list[GenerationResponse]:
    requests = [replace(a, instruction=i) for a, i in zip(asked, instructions, strict=True)]
    found = []
    for start in range(0, len(requests), BATCH):
        for answer in engine.generate(requests[start : start + BATCH]):
            if not isinstance(answer, GenerationResponse):
                raise answer
            found.append(answer)
    return found


def _place(answer: GenerationResponse, target_key: int) -> int | None:
    keys = [item.item_key for item in answer.items]
    return keys.index(target_key) if target_key in keys else None


def hits_of(ranks: Sequence[int | None]) -> dict[str, float]:
    """Returns HR@K by name."""
    return {f"HR@{k}": mean(_hit(rank, k) for rank in ranks) for k in KS}


def _hit(rank: int | None, k: int) -> float:
    return float(rank is not None and rank < k)


def gap_of(one: Sequence[int | None], other: Sequence[int | None]) -> dict[str, Any]:
    """Returns the difference of HR@K by name: mean, and the ends of its 95 % interval."""
    found: dict[str, Any] = {}
    for k in KS:
        mine, theirs = ([_hit(rank, k) for rank in ranks] for ranks in (one, other))
        gap = paired_difference(mine, theirs, np.random.default_rng(0))
        found[f"HR@{k}"] = [gap.mean, gap.low, gap.high]
    return found
