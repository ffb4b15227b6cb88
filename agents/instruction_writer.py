"""The instruction writer: trigger -> reasoner -> text -> vector -> Redis -> `instructions`.

Many users at once (a call of an LLM takes seconds), one user's windows in their order. Offsets are
committed in order, behind every effect: a crash repeats the triggers that were in hand, and the
compare-and-set in Redis makes the repeat harmless.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from agents.artifact_folders import generation_folder, newest_generation
from agents.ports import HistoryStore, InstructionStore, ItemStore, ProfileStore, TextEncoder
from agents.ports import Reasoner as ReasonerPort
from agents.settings import Settings
from models.reasoning.context import ReasoningContext
from models.reasoning.local_reasoner import LocalReasoner
from models.reasoning.text_encoder import CharacterEncoder
from models.vectors import pack
from schemas import topics
from schemas.actions import UserAction
from schemas.behaviour import Behaviour
from schemas.catalog import item_key_of
from schemas.codec import RECORDS, Decoder
from schemas.errors import InvalidRecord
from schemas.instructions import InstructionTrigger, ReasoningInstruction
from streams import metrics
from streams.admin import check_topics
from streams.consumer import OffsetTracker, TrackedPartitions, group_consumer
from streams.dead_letters import DeadLetters, Source, failure, rejection_of
from streams.producer import RecordProducer
from streams.redis_client import worker_client
from streams.redis_history import RedisHistory
from streams.redis_instructions import RedisInstructions
from streams.redis_items import RedisItems
from streams.redis_profiles import RedisProfiles

NAME = "instruction-writer"
GROUP = "oxygenrec-instruction-writer"
POLL_MS = 200
RETRY_S = 0.5

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composer:
    """Makes the instruction of a trigger from what the stores know about its user."""

    generation: int
    reasoner: ReasonerPort
    encoder: TextEncoder
    history: HistoryStore
    items: ItemStore
    profiles: ProfileStore
    history_length: int

    async def compose(self, trigger: InstructionTrigger, now_ms: int) -> ReasoningInstruction:
        """Returns the instruction as of the window's end. Raises what reasoner and stores raise."""
        context = await self._context(trigger)
        reasoning = await self.reasoner.reason(context)
        vector = self.encoder.encode([reasoning.text])[0]
        return ReasoningInstruction(
            instruction_id=f"{trigger.trigger_id}:{self.generation}",
            trigger_id=trigger.trigger_id,
            user_id=trigger.user_id,
            generation=self.generation,
            kind=reasoning.kind,
            text=reasoning.text,
            vector=pack(vector),
            encoder_id=self.encoder.encoder_id,
            as_of_ms=trigger.window_end_ms,
            created_ms=now_ms,
            reasoner=reasoning.reasoner,
        )

    async def _context(self, trigger: InstructionTrigger) -> ReasoningContext:
        recent = await self.history.recent(trigger.user_id, self.history_length)
        behaviour = [b for b in recent if b.event_time_ms < trigger.window_end_ms]
        return ReasoningContext(
            user_id=trigger.user_id,
            as_of_ms=trigger.window_end_ms,
            window=trigger.actions,
            behaviour=behaviour,
            items=await self.items.rows(_item_keys(behaviour, trigger.actions)),
            profile=await self.profiles.profile(trigger.user_id),
        )


async def run(settings: Settings) -> None:
    """Writes until cancelled. Raises `TopicsDiffer`, `GenerationMissing`, `UndeliveredRecord`."""
    check_topics(
        settings.kafka, (topics.INSTRUCTION_TRIGGERS, topics.INSTRUCTIONS, topics.DEAD_LETTERS)
    )
    generation = newest_generation(settings)
    folder = generation_folder(settings, generation)
    redis = worker_client(settings.redis)
    composer = Composer(
        generation=generation,
        reasoner=LocalReasoner(),
        encoder=CharacterEncoder.load(folder),
        history=RedisHistory(redis),
        items=RedisItems(redis),
        profiles=RedisProfiles(redis),
        history_length=settings.router.history_length,
    )
    store = RedisInstructions(redis, settings.instructions.expires_ms)
    consumer = group_consumer(settings.kafka, GROUP)
    with RecordProducer(settings.kafka, f"oxygenrec-{NAME}") as producer:
        writer = InstructionWriter(
            consumer, composer, store, producer, in_flight=settings.instructions.in_flight
        )
        try:
            await consumer.start()
            logger.info("instruction writer started", extra={"generation": generation})
            await writer.run()
        finally:
            await consumer.stop()
            await redis.aclose()
            logger.info("instruction writer stopped")


class InstructionWriter:
    """One member of the group: reads triggers, keeps up to `in_flight` of them in hand."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        composer: Composer,
        store: InstructionStore,
        producer: RecordProducer,
        *,
        in_flight: int,
    ) -> None:
        self._consumer = consumer
        self._composer = composer
        self._store = store
        self._producer = producer
        self._dead_letters = DeadLetters(producer, NAME, _now_ms)
        self._free = asyncio.Semaphore(in_flight)
        self._tracker = OffsetTracker()
        self._latest: dict[str, asyncio.Task[None]] = {}
        self._decoder: Decoder[InstructionTrigger] = Decoder(RECORDS[topics.INSTRUCTION_TRIGGERS])
        consumer.subscribe([topics.INSTRUCTION_TRIGGERS], listener=TrackedPartitions(self._tracker))

    async def run(self) -> None:
        """Reads and commits until cancelled; what was not committed comes again."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
                for place, messages in fetched.items():
                    metrics.CONSUMED.labels(worker=NAME, topic=place.topic).inc(len(messages))
                    for message in messages:
                        await self._free.acquire()
                        self._begin(tasks, place, message)
                await self._commit()

    def _begin(self, tasks: asyncio.TaskGroup, place: TopicPartition, message: Any) -> None:
        source = Source(
            topic=place.topic,
            partition=place.partition,
            offset=message.offset,
            key=message.key,
            value=message.value,
        )
        self._tracker.begin(place, message.offset)
        user = (message.key or b"").decode(errors="replace")
        earlier = self._latest.get(user)
        task = tasks.create_task(self._handle(place, source, earlier))
        self._latest[user] = task
        task.add_done_callback(lambda done: self._end(user, done))

    def _end(self, user: str, task: asyncio.Task[None]) -> None:
        self._free.release()
        if self._latest.get(user) is task:
            del self._latest[user]

    async def _handle(
        self, place: TopicPartition, source: Source, earlier: asyncio.Task[None] | None
    ) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        try:
            trigger = self._decoder.decode(source.value or b"")
        except InvalidRecord as error:
            await asyncio.wrap_future(self._dead_letters.send(source, rejection_of(error)))
        else:
            await self._write(trigger, source)
        self._tracker.finish(place, source.offset)

    async def _write(self, trigger: InstructionTrigger, source: Source) -> None:
        begun = time.monotonic()
        try:
            made = await _with_redis(lambda: self._composer.compose(trigger, _now_ms()))
        except Exception as error:
            metrics.INSTRUCTIONS.labels(result="failed").inc()
            logger.exception("no instruction", extra={"trigger": trigger.trigger_id})
            await asyncio.wrap_future(self._dead_letters.send(source, failure(error)))
            return
        metrics.REASONING_SECONDS.observe(time.monotonic() - begun)
        stored = await _with_redis(lambda: self._stored(made))
        if stored is None:
            metrics.INSTRUCTIONS.labels(result="superseded").inc()
            return
        await asyncio.wrap_future(self._producer.send(topics.INSTRUCTIONS, stored, stored.user_id))
        metrics.INSTRUCTIONS.labels(result="stored").inc()

    async def _stored(self, made: ReasoningInstruction) -> ReasoningInstruction | None:
        """Returns what `instructions` must hold: `made`, or itself as a crash left it in Redis."""
        if await self._store.write(made):
            return made
        current = await self._store.read(made.generation, made.user_id)
        return current if current and current.instruction_id == made.instruction_id else None

    async def _commit(self) -> None:
        positions = self._tracker.take_positions()
        if not positions:
            return
        try:
            await self._consumer.commit(positions)
        except KafkaError as error:
            # The partitions have moved: their new owner repeats what was in hand.
            logger.warning("offsets not committed", extra={"cause": str(error)})


async def _with_redis(call: Callable[[], Awaitable[T]]) -> T:
    """Returns the call's result; while Redis is away it waits, for nothing may be skipped."""
    while True:
        try:
            return await call()
        except RedisError as error:
            logger.warning("Redis does not answer", extra={"cause": str(error)})
            await asyncio.sleep(RETRY_S)


def _item_keys(behaviour: list[Behaviour], window: list[UserAction]) -> list[int]:
    keys = {b.item_key for b in behaviour if b.item_key is not None}
    return sorted(keys | {item_key_of(a.item_id) for a in window if a.item_id is not None})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
