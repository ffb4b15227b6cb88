"""The recommendation endpoint's records: what is asked, what is answered, and the way between."""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from agents.edge.explanation import Explanation
from agents.edge.slates import NO_VERSION, Question, Slate
from schemas.actions import ActionContext, Identifier, Text
from schemas.catalog import item_key_of
from schemas.dead_letters import Reason
from schemas.errors import InvalidRecord

MAX_ITEMS = 50  # the beam width: no longer list can be complete


class RecommendationRequest(Struct, frozen=True, kw_only=True):
    """A slate for one user. `query` is the words of a search; `trigger_item_id` the item shown.

    `explain`: the answer says why it is so, one read of Redis later.
    """

    user_id: Identifier
    scenario: Identifier = "home"
    trigger_item_id: Identifier | None = None
    query: Text | None = None
    num_items: Annotated[int, Meta(ge=1, le=MAX_ITEMS)] | None = None
    exclude_item_ids: Annotated[list[Identifier], Meta(max_length=1_000)] = []
    context: ActionContext | None = None
    explain: bool = False


class RecommendedItem(Struct, frozen=True, kw_only=True):
    """One item, best first; popular items of a degraded answer have no semantic ID and no score."""

    item_id: str
    semantic_id: str | None
    score: float | None


class InstructionShown(Struct, frozen=True, kw_only=True):
    """The reasoning instruction the slate was made under."""

    id: str
    text: str
    age_ms: int


class RecommendationAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A slate. Its three versions are those of one answer of the generator, or null if degraded.

    `explanation` is there where it was asked for and the generator answered.
    """

    request_id: str
    items: list[RecommendedItem]
    policy_version: int | None
    generation: int | None
    index_offset: int | None
    instruction: InstructionShown | None
    degraded: str | None
    explanation: Explanation | None = None


def question_of(
    asked: RecommendationRequest,
    *,
    scenarios: tuple[str, ...],
    num_items: int,
    now_ms: int,
    new_id: Callable[[], str],
) -> Question:
    """Returns a request checked and with its defaults. Raises `InvalidRecord`: unknown scenario."""
    if asked.scenario not in scenarios:
        raise InvalidRecord(
            reason=Reason.UNKNOWN_SCENARIO,
            field="scenario",
            found=asked.scenario,
            wanted="one of " + ", ".join(scenarios),
        )
    trigger = asked.trigger_item_id
    return Question(
        request_id=new_id(),
        user_id=asked.user_id,
        scenario=asked.scenario,
        num_items=asked.num_items or num_items,
        asked_ms=now_ms,
        trigger_key=None if trigger is None else item_key_of(trigger),
        query=asked.query,
        exclude_keys=frozenset(item_key_of(item_id) for item_id in asked.exclude_item_ids),
        explain=asked.explain,
    )


def unknown_item(asked: RecommendationRequest) -> InvalidRecord:
    """Returns the fault of a trigger item that the catalogue does not have."""
    return InvalidRecord(
        reason=Reason.UNKNOWN_ITEM,
        field="trigger_item_id",
        found=str(asked.trigger_item_id),
        wanted="an item of the catalogue",
    )


def answer_of(slate: Slate, now_ms: int) -> RecommendationAnswer:
    """Returns a slate as the endpoint says it."""
    made = slate.impression
    generated = made.degraded is None
    instruction = slate.instruction
    return RecommendationAnswer(
        request_id=made.request_id,
        items=[
            RecommendedItem(
                item_id=item.item_id,
                semantic_id="-".join(map(str, item.sid)) if generated else None,
                score=item.score if generated else None,
            )
            for item in made.slate
        ],
        policy_version=_version(made.policy_version),
        generation=_version(made.generation),
        index_offset=_version(made.index_offset),
        instruction=None
        if instruction is None
        else InstructionShown(
            id=instruction.instruction_id,
            text=instruction.text,
            age_ms=max(0, now_ms - instruction.as_of_ms),
        ),
        degraded=made.degraded,
        explanation=slate.explanation,
    )


def _version(stamped: int) -> int | None:
    return None if stamped == NO_VERSION else stamped
