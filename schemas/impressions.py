"""Impressions: one served slate, all that recomputes it, and the three version axes."""

from enum import StrEnum

from msgspec import Struct


class Slot(StrEnum):
    """How an item came to its position: by rank, or drawn for exploration."""

    TOP = "top"
    EXPLORED = "explored"


class HistoryFeatures(Struct, frozen=True, kw_only=True):
    """The behaviour the generator saw, oldest first: three aligned lists made by
    `models.features.build_history`.
    """

    item_keys: list[int]
    action_codes: list[int]
    gap_buckets: list[int]


class SlateItem(Struct, frozen=True, kw_only=True):
    """One shown item: its SID, one `legal` log-prob a code, and the score it was ranked by."""

    item_key: int
    item_id: str
    sid: list[int]
    logprobs: list[float]
    score: float
    position: int
    slot: Slot


class Exploration(Struct, frozen=True, kw_only=True):
    """The one explored slot: candidates were the ranked items not placed, drawn with the
    probabilities logged.
    """

    position: int
    temperature: float
    candidate_keys: list[int]
    scores: list[float]
    probabilities: list[float]
    chosen: int


class ServedInstruction(Struct, frozen=True, kw_only=True):
    """The instruction in force when the slate was made; `vector` is fp16, exactly what the
    generator was given.
    """

    instruction_id: str
    vector: bytes
    as_of_ms: int


class Impression(Struct, frozen=True, kw_only=True, tag_field="schema", tag="impression/1"):
    """One answered request.

    (weights of `policy_version`, `generation`, `index_offset`) determine its log-probs.
    """

    request_id: str
    user_id: str
    scenario: str
    served_ms: int
    generation: int
    policy_version: int
    index_offset: int
    history: HistoryFeatures
    slate: list[SlateItem]
    beams: int
    trigger_key: int | None = None
    instruction: ServedInstruction | None = None
    exploration: Exploration | None = None
    degraded: str | None = None
