"""What a recommendation is: the question, the slate with its versions, its impression. Pure."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from agents.edge.explanation import Explanation
from agents.edge.popular_items import shown_in
from schemas.catalog import ItemRow
from schemas.generation import GeneratedItem, GenerationRequest, GenerationResponse
from schemas.impressions import (
    Exploration,
    HistoryFeatures,
    Impression,
    ServedInstruction,
    SlateItem,
    Slot,
)

NO_VERSION = -1  # stamped on the impression of a slate that no generator made


class Question(Struct, frozen=True, kw_only=True):
    """One request for a slate, checked: the scenario is known, keys stand for items."""

    request_id: str
    user_id: str
    scenario: str
    num_items: int
    asked_ms: int
    trigger_key: int | None = None
    query: str | None = None
    exclude_keys: frozenset[int] = frozenset()
    explain: bool = False


class InstructionInForce(Struct, frozen=True, kw_only=True):
    """The instruction a slate was made under, in words and as the generator was given it.

    `of_query`: the words are the request's own, not what slow thinking concluded.
    """

    instruction_id: str
    text: str
    vector: bytes
    as_of_ms: int
    of_query: bool = False


class Slate(Struct, frozen=True, kw_only=True):
    """An answered question: the impression that is logged, the instruction's text, and why, where
    that was asked for.
    """

    impression: Impression
    instruction: InstructionInForce | None = None
    explanation: Explanation | None = None


def eligible(
    items: Sequence[GeneratedItem], rows: Mapping[int, ItemRow], question: Question
) -> list[GeneratedItem]:
    """Returns the items that may be shown, in their order: Redis' live flag has the last word."""
    return [
        item
        for item in items
        if item.item_key not in question.exclude_keys
        and (row := rows.get(item.item_key)) is not None
        and shown_in(row, question.scenario)
    ]


def generated_slate(
    question: Question,
    request: GenerationRequest,
    response: GenerationResponse,
    chosen: Sequence[GeneratedItem],
    exploration: Exploration | None,
    rows: Mapping[int, ItemRow],
    instruction: InstructionInForce | None,
) -> Slate:
    """Returns a slate the generator made; all three versions are those of its one response."""
    explored = exploration.position if exploration else None
    items = [
        SlateItem(
            item_key=item.item_key,
            item_id=rows[item.item_key].item_id,
            sid=item.sid,
            logprobs=item.logprobs,
            score=item.score,
            position=position,
            slot=Slot.EXPLORED if position == explored else Slot.TOP,
        )
        for position, item in enumerate(chosen)
    ]
    impression = Impression(
        request_id=question.request_id,
        user_id=question.user_id,
        scenario=question.scenario,
        served_ms=question.asked_ms,
        generation=response.generation,
        policy_version=response.policy_version,
        index_offset=response.index_offset,
        history=request.history,
        slate=items,
        beams=request.beams,
        trigger_key=request.trigger_key,
        instruction=_served(instruction),
        exploration=exploration,
    )
    return Slate(impression=impression, instruction=instruction)


def popular_slate(question: Question, popular: Sequence[ItemRow], cause: str) -> Slate:
    """Returns a degraded slate of popular items: no semantic IDs, no versions, the cause."""
    items = [
        SlateItem(
            item_key=row.item_key,
            item_id=row.item_id,
            sid=[],
            logprobs=[],
            score=0.0,
            position=position,
            slot=Slot.TOP,
        )
        for position, row in enumerate(popular)
    ]
    impression = Impression(
        request_id=question.request_id,
        user_id=question.user_id,
        scenario=question.scenario,
        served_ms=question.asked_ms,
        generation=NO_VERSION,
        policy_version=NO_VERSION,
        index_offset=NO_VERSION,
        history=HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[]),
        slate=items,
        beams=0,
        trigger_key=question.trigger_key,
        degraded=cause,
    )
    return Slate(impression=impression)


def _served(instruction: InstructionInForce | None) -> ServedInstruction | None:
    if instruction is None:
        return None
    return ServedInstruction(
        instruction_id=instruction.instruction_id,
        vector=instruction.vector,
        as_of_ms=instruction.as_of_ms,
    )
