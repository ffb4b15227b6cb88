"""Reads what is known about a user when a request comes: history, instruction, trigger item.

One round of reads within Redis' deadline. In the search scenario the query itself is the
instruction: search rows are trained so.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from agents.edge.redis_deadline import redis_within
from agents.edge.slates import InstructionInForce, Question
from agents.ports import HistoryStore, InstructionStore, ItemStore, TextEncoder
from models.vectors import VectorInvalid, pack, unpack
from schemas.behaviour import Behaviour
from schemas.encoding import EncodingFailed
from schemas.errors import OxygenRecError
from schemas.instructions import ReasoningInstruction
from streams import metrics

SEARCH = "search"


class UnknownItem(OxygenRecError):
    """The trigger item has no row in Redis: it never was in the catalogue."""

    def __init__(self, *, item_key: int) -> None:
        self.item_key = item_key
        super().__init__(f"no item with key {item_key}: send the item to `catalog` first")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextConfig:
    """How much is read, how long it may take, and how old an instruction may be."""

    redis_ms: int = 10
    query_ms: int = 25
    history_length: int = 200
    instruction_expires_ms: int = 36 * 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UserContext:
    """What was known about the user when the request came."""

    behaviour: list[Behaviour]
    instruction: InstructionInForce | None


class ContextReader:
    """Reads the context of one request after the other; `encoder` gives a generation's, if any."""

    def __init__(
        self,
        config: ContextConfig,
        *,
        history: HistoryStore,
        instructions: InstructionStore,
        items: ItemStore,
        encoder: Callable[[int], TextEncoder | None],
    ) -> None:
        self._config = config
        self._history = history
        self._instructions = instructions
        self._items = items
        self._encoder = encoder

    async def read(self, question: Question, generation: int) -> UserContext:
        """Returns the user's context. Raises `Degraded` and `UnknownItem`."""
        trigger = [] if question.trigger_key is None else [question.trigger_key]
        reading = asyncio.gather(
            self._history.recent(question.user_id, self._config.history_length),
            self._instructions.read(generation, question.user_id),
            self._items.rows(trigger),
        )
        behaviour, stored, rows = await redis_within(self._config.redis_ms, reading)
        if question.trigger_key is not None and question.trigger_key not in rows:
            raise UnknownItem(item_key=question.trigger_key)
        instruction = await self._in_force(question, stored, self._encoder(generation))
        return UserContext(behaviour=behaviour, instruction=instruction)

    async def _in_force(
        self,
        question: Question,
        stored: ReasoningInstruction | None,
        encoder: TextEncoder | None,
    ) -> InstructionInForce | None:
        """Returns the words of a search, else the user's own; None: the learnable default.

        It stands in for words that were not encoded in time too: about this search, an older
        window's instruction may say the contrary.
        """
        try:
            of_query = await self._of_query(question, encoder)
        except EncodingFailed as error:
            metrics.QUERIES_NOT_ENCODED.labels(cause=error.cause).inc()
            return None
        return of_query or self._fresh(question, stored, encoder)

    def _fresh(
        self,
        question: Question,
        stored: ReasoningInstruction | None,
        encoder: TextEncoder | None,
    ) -> InstructionInForce | None:
        if stored is None:
            return None
        if encoder is not None and (cause := _unusable(stored, encoder)):
            metrics.INSTRUCTIONS_REFUSED.labels(cause=cause).inc()
            return None  # the learnable default is better
        if question.asked_ms - stored.as_of_ms > self._config.instruction_expires_ms:
            return None  # Redis lets it expire too, counted from the write
        return InstructionInForce(
            instruction_id=stored.instruction_id,
            text=stored.text,
            vector=stored.vector,
            as_of_ms=stored.as_of_ms,
        )

    async def _of_query(
        self, question: Question, encoder: TextEncoder | None
    ) -> InstructionInForce | None:
        if question.scenario != SEARCH or not question.query or encoder is None:
            return None
        [vector] = await encoder.encode([question.query], deadline_ms=self._config.query_ms)
        if not vector.any():  # nothing in it is known: the user's own instruction says more
            return None
        return InstructionInForce(
            instruction_id=f"query:{question.request_id}",
            text=question.query,
            vector=pack(vector),
            as_of_ms=question.asked_ms,
            of_query=True,
        )


def _unusable(stored: ReasoningInstruction, encoder: TextEncoder) -> str | None:
    """Returns why a stored vector must not be served: another encoder's points anywhere, and one
    with a NaN or of another length the generator refuses.
    """
    if encoder.encoder_id != stored.encoder_id:
        return "encoder"
    try:
        unpack(stored.vector, encoder.dim)
    except VectorInvalid:
        return "vector"
    return None
