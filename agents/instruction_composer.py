"""Makes the instruction of one trigger: context from the stores, a reasoner's text, its vector."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from agents.ports import HistoryStore, ItemStore, ProfileStore, Reasoner, TextEncoder
from models.reasoning.context import ReasoningContext
from models.vectors import pack
from schemas.actions import UserAction
from schemas.behaviour import Behaviour
from schemas.catalog import item_key_of
from schemas.instructions import InstructionTrigger, ReasoningInstruction


@dataclass(frozen=True, slots=True, kw_only=True)
class Composer:
    """Makes the instruction of a trigger from what the stores know about its user."""

    generation: int
    reasoner: Reasoner
    encoder: TextEncoder
    history: HistoryStore
    items: ItemStore
    profiles: ProfileStore
    history_length: int

    async def compose(
        self, trigger: InstructionTrigger, now_ms: int, erased_ms: int | None = None
    ) -> ReasoningInstruction:
        """Returns the instruction as of the trigger's time. Raises what its parts raise.

        `erased_ms`: the erasure that `trigger` is `since`, written down in the instruction.
        """
        context = await self._context(trigger)
        reasoning = await self.reasoner.reason(context)
        [vector] = await self.encoder.encode([reasoning.text])
        return ReasoningInstruction(
            instruction_id=f"{trigger.trigger_id}:{self.generation}",
            trigger_id=trigger.trigger_id,
            user_id=trigger.user_id,
            generation=self.generation,
            kind=reasoning.kind,
            text=reasoning.text,
            vector=pack(vector),
            encoder_id=self.encoder.encoder_id,
            as_of_ms=trigger.until_ms,
            created_ms=now_ms,
            reasoner=reasoning.reasoner,
            after_erasure_ms=erased_ms,
        )

    async def _context(self, trigger: InstructionTrigger) -> ReasoningContext:
        recent = await self.history.recent(trigger.user_id, self.history_length)
        behaviour = [b for b in recent if b.event_time_ms < trigger.until_ms]
        return ReasoningContext(
            user_id=trigger.user_id,
            as_of_ms=trigger.until_ms,
            window=trigger.actions,
            behaviour=behaviour,
            items=await self.items.rows(_item_keys(behaviour, trigger.actions)),
            profile=await self.profiles.profile(trigger.user_id),
        )


def since(trigger: InstructionTrigger, erased_ms: int | None) -> InstructionTrigger | None:
    """Returns the trigger with what its user did after the erasure alone; None if that is nothing.

    Without actions (a refresh) it speaks about history, which Redis clears itself.
    """
    if erased_ms is None:
        return trigger
    kept = [action for action in trigger.actions if action.event_time_ms > erased_ms]
    if trigger.until_ms <= erased_ms or (trigger.actions and not kept):
        return None
    return msgspec.structs.replace(trigger, actions=kept)


def _item_keys(behaviour: Sequence[Behaviour], window: Sequence[UserAction]) -> list[int]:
    keys = {b.item_key for b in behaviour if b.item_key is not None}
    return sorted(keys | {item_key_of(a.item_id) for a in window if a.item_id is not None})
