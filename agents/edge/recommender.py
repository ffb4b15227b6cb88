"""Answers one request within the edge's deadline: Redis 10 ms + generator 70 ms + the rest.

Whatever is late or gone on the way, the answer is a slate: popular items of the scenario, marked
with the cause. An impression goes out for every slate; the answer does not wait for its ack.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from msgspec.structs import replace

from agents.edge.explanation import explanation_of, keys_to_name
from agents.edge.exploration import MAX_CANDIDATES, ExplorationConfig, explores, place
from agents.edge.popular_items import PopularItems
from agents.edge.redis_deadline import Degraded, redis_within
from agents.edge.slates import (
    InstructionInForce,
    Question,
    Slate,
    eligible,
    generated_slate,
    popular_slate,
)
from agents.edge.user_context import ContextReader
from agents.ports import Generator, ItemStore
from models.features import build_history
from schemas.catalog import ItemRow
from schemas.generation import (
    BadGenerationRequest,
    GeneratedItem,
    GenerationRequest,
    GenerationResponse,
    GeneratorUnavailable,
)
from schemas.impressions import Impression
from schemas.policies import PolicyPublished
from streams import metrics

SPARE_ITEMS = 5  # a few of the best may be out of stock since the index was made
REST_MS = 5  # kept back of the deadline for building and sending the answer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommenderConfig:
    """The deadlines of one request and what a slate is made of."""

    deadline_ms: int = 100
    redis_ms: int = 10
    generator_ms: int = 70
    beams: int = 50
    recent: int = 20
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)


class Recommender:
    """One per process, for one event loop.

    `policy` returns what is announced now, `emit` sends an impression off without waiting.
    """

    def __init__(
        self,
        config: RecommenderConfig,
        *,
        context: ContextReader,
        items: ItemStore,
        popular: PopularItems,
        generator: Generator,
        policy: Callable[[], PolicyPublished | None],
        emit: Callable[[Impression], None],
        rng: Random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._context = context
        self._items = items
        self._popular = popular
        self._generator = generator
        self._policy = policy
        self._emit = emit
        self._rng = rng
        self._monotonic = monotonic

    async def recommend(self, question: Question) -> Slate:
        """Returns a slate within the deadline, and emits its impression. Raises `UnknownItem`."""
        start = self._monotonic()
        until = start + (self._config.deadline_ms - REST_MS) / 1_000
        try:
            slate = await self._generated(question, until)
        except Degraded as degraded:
            slate = await self._fallback(question, degraded.cause, until)
        self._emit(slate.impression)
        seconds = self._monotonic() - start
        metrics.RECOMMENDATION_SECONDS.labels(scenario=question.scenario).observe(seconds)
        _say(slate.impression, seconds)
        return slate

    async def _generated(self, question: Question, until: float) -> Slate:
        policy = self._announced()
        context = await self._context.read(question, policy.generation)
        instruction = context.instruction
        request = GenerationRequest(
            scenario=question.scenario,
            history=build_history(context.behaviour, question.asked_ms, self._config.recent),
            beams=self._config.beams,
            trigger_key=question.trigger_key,
            instruction=None if instruction is None else instruction.vector,
            exclude_keys=sorted(question.exclude_keys),
        )
        response = await self._decode(request, policy, until)
        if response.generation != policy.generation:  # decoded again without its vector
            request, instruction = replace(request, instruction=None), None
        explore = explores(self._config.exploration, self._rng)
        spare = MAX_CANDIDATES if explore else SPARE_ITEMS
        ranked, rows = await self._shown(question, response.items, question.num_items + spare)
        chosen, explored = ranked[: question.num_items], None
        if explore:
            temperature = self._config.exploration.temperature
            chosen, explored = place(ranked, question.num_items, temperature, self._rng)
        metrics.EXPLORED.inc(int(explored is not None))
        _count(question, instruction)
        slate = generated_slate(question, request, response, chosen, explored, rows, instruction)
        return await self._explained(slate, request, response) if question.explain else slate

    async def _explained(
        self, slate: Slate, request: GenerationRequest, response: GenerationResponse
    ) -> Slate:
        naming = self._items.rows(keys_to_name(request, response))
        try:
            rows = await redis_within(self._config.redis_ms, naming)
        except Degraded:
            return slate  # made already: better without a reason than popular items
        shown = {item.item_key: item.slot for item in slate.impression.slate}
        text = slate.instruction.text if slate.instruction else None
        return replace(slate, explanation=explanation_of(request, response, shown, rows, text))

    async def _shown(
        self, question: Question, items: Sequence[GeneratedItem], wanted: int
    ) -> tuple[list[GeneratedItem], dict[int, ItemRow]]:
        """Returns the items that may be shown and their rows: those of the first `wanted`.

        The rest is read where these are too few for the slate: a row costs 70 us of the edge's CPU.
        """
        rows: dict[int, ItemRow] = {}
        ranked: list[GeneratedItem] = []
        for part in (items[:wanted], items[wanted:]):
            if part and len(ranked) < question.num_items:
                reading = self._items.rows([item.item_key for item in part])
                rows |= await redis_within(self._config.redis_ms, reading)
                ranked += eligible(part, rows, question)
        if not ranked:
            raise Degraded("no_items")
        return ranked, rows

    def _announced(self) -> PolicyPublished:
        policy = self._policy()
        if policy is None:
            raise Degraded("no_policy")
        return policy

    async def _decode(
        self, request: GenerationRequest, policy: PolicyPublished, until: float
    ) -> GenerationResponse:
        """Decodes with the announced version; a version just replaced is read and tried once more.

        In another generation the vector of the instruction means nothing: it is left out there.
        """
        try:
            return await self._once(request, policy.stable_version, until)
        except GeneratorUnavailable as error:
            newer = self._announced()
            if error.cause != "version" or newer.stable_version == policy.stable_version:
                raise Degraded(f"generator_{error.cause}") from error
        if newer.generation != policy.generation:
            request = replace(request, instruction=None)
        try:
            return await self._once(request, newer.stable_version, until)
        except GeneratorUnavailable as error:
            raise Degraded(f"generator_{error.cause}") from error

    async def _once(
        self, request: GenerationRequest, version: int, until: float
    ) -> GenerationResponse:
        left_ms = int((until - self._monotonic()) * 1_000) - self._config.redis_ms
        deadline_ms = min(self._config.generator_ms, left_ms)
        if deadline_ms <= 0:
            raise Degraded("redis_late")
        try:
            return await self._generator.generate(request, version=version, deadline_ms=deadline_ms)
        except BadGenerationRequest as error:
            logger.exception("the generator refuses a request of the edge")
            raise Degraded("generator_refused") from error

    async def _fallback(self, question: Question, cause: str, until: float) -> Slate:
        left_ms = int((until - self._monotonic()) * 1_000)
        popular = await self._popular.read(
            question.scenario,
            question.num_items,
            question.exclude_keys,
            0 if cause.startswith("redis") else min(self._config.redis_ms, left_ms),
        )
        metrics.DEGRADED.labels(cause=cause).inc()
        metrics.SLATES.labels(instruction="none").inc()
        return popular_slate(question, popular, cause)


def _say(impression: Impression, seconds: float) -> None:
    """Logs one slate: a degraded one at INFO, the others at DEBUG."""
    level = logging.DEBUG if impression.degraded is None else logging.INFO
    if logger.isEnabledFor(level):
        said = {
            "request": impression.request_id,
            "scenario": impression.scenario,
            "policy_version": impression.policy_version,
            "degraded": impression.degraded,
            "ms": round(seconds * 1_000, 1),
        }
        logger.log(level, "slate", extra=said)


def _count(question: Question, instruction: InstructionInForce | None) -> None:
    """Counts what instructed a slate; words of the moment have no age."""
    if instruction is None:
        metrics.SLATES.labels(instruction="default").inc()
    elif instruction.of_query:
        metrics.SLATES.labels(instruction="query").inc()
    else:
        metrics.SLATES.labels(instruction="own").inc()
        age_ms = max(0, question.asked_ms - instruction.as_of_ms)
        metrics.INSTRUCTION_AGE_SECONDS.observe(age_ms / 1_000)
