"""The instruction writer: trigger -> reasoner -> text -> vector -> Redis -> `instructions`.

Many users at once (a call of an LLM takes seconds), one user's windows in their order, and of those
that wait only the newest (`agents/trigger_queue.py`). Refreshes are read when no trigger is there.
Offsets are committed in order, behind every effect: a crash repeats the triggers that were in hand,
and the compare-and-set in Redis makes the repeat harmless. It also refuses what was made before its
user was erased (decisions/0013).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from agents.artifact_folders import newest_generation
from agents.instruction_composer import Composer, since
from agents.ports import InstructionStore
from agents.reasoners import open_reasoner
from agents.settings import InstructionConfig, Settings
from agents.text_encoders import open_encoder
from agents.trigger_queue import Queued, TriggerQueue
from schemas import topics
from schemas.codec import RECORDS, Decoder
from schemas.encoding import EncoderMismatch
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
READ = (topics.INSTRUCTION_TRIGGERS, topics.INSTRUCTION_REFRESHES)
POLL_MS = 200
RETRY_S = 0.5

logger = logging.getLogger(__name__)
T = TypeVar("T")


async def run(settings: Settings) -> None:
    """Writes until cancelled.

    Raises `TopicsDiffer`, `NoGeneration`, `InvalidSetting`, `EncoderMismatch`, `UndeliveredRecord`.
    """
    check_topics(settings.kafka, (*READ, topics.INSTRUCTIONS, topics.DEAD_LETTERS))
    generation = newest_generation(settings)
    redis = worker_client(settings.redis)
    store = RedisInstructions(redis, settings.instructions.expires_ms)
    consumer = group_consumer(settings.kafka, GROUP, NAME)
    try:
        with RecordProducer(settings.kafka, f"oxygenrec-{NAME}") as producer:
            async with (
                open_reasoner(settings, _now_ms) as reasoner,
                open_encoder(settings, generation) as encoder,
            ):
                composer = Composer(
                    generation=generation,
                    reasoner=reasoner,
                    encoder=encoder,
                    history=RedisHistory(redis),
                    items=RedisItems(redis),
                    profiles=RedisProfiles(redis),
                    history_length=settings.router.history_length,
                )
                writer = InstructionWriter(
                    settings.instructions, consumer, composer, store, producer
                )
                await consumer.start()
                said = {
                    "generation": generation,
                    "reasoner": reasoner.name,
                    "text_encoder": encoder.encoder_id,
                }
                logger.info("instruction writer started", extra=said)
                await writer.run()
    finally:
        await consumer.stop()
        await redis.aclose()
        logger.info("instruction writer stopped")


class InstructionWriter:
    """One member of the group: up to `in_flight` records in hand, `queued` behind them."""

    def __init__(
        self,
        config: InstructionConfig,
        consumer: AIOKafkaConsumer,
        composer: Composer,
        store: InstructionStore,
        producer: RecordProducer,
    ) -> None:
        self._config = config
        self._consumer = consumer
        self._composer = composer
        self._store = store
        self._producer = producer
        self._dead_letters = DeadLetters(producer, NAME, _now_ms)
        self._tracker = OffsetTracker()
        self._queue = TriggerQueue(refreshes_in_hand=max(1, config.in_flight // 2))
        self._decoder: Decoder[InstructionTrigger] = Decoder(RECORDS[topics.INSTRUCTION_TRIGGERS])
        consumer.subscribe(READ, listener=QueuedPartitions(self._tracker, self._queue))

    async def run(self) -> None:
        """Reads and commits until cancelled; what was not committed comes again."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                poison = []
                for place, messages in (await self._read()).items():
                    metrics.CONSUMED.labels(worker=NAME, topic=place.topic).inc(len(messages))
                    for message in messages:
                        try:
                            self._offer(place, message)
                        except InvalidRecord as error:
                            poison.append(self._bury(_source(place, message), error))
                self._begin(tasks)
                await asyncio.gather(*poison)
                await self._commit()

    async def _read(self) -> dict[TopicPartition, list[Any]]:
        """Returns new triggers; new refreshes only where no trigger came and none waits."""
        room = self._config.queued - self._queue.triggers
        fetched = await self._fetch(topics.INSTRUCTION_TRIGGERS, room, POLL_MS)
        if fetched or self._queue.triggers:
            return fetched
        room = self._config.in_flight - self._queue.refreshes
        return await self._fetch(topics.INSTRUCTION_REFRESHES, room, 0)

    async def _fetch(
        self, topic: str, room: int, timeout_ms: int
    ) -> dict[TopicPartition, list[Any]]:
        places = [place for place in self._consumer.assignment() if place.topic == topic]
        if room <= 0 or not places:  # without partitions aiokafka would take those of any topic
            await asyncio.sleep(timeout_ms / 1_000)
            return {}
        fetched: dict[TopicPartition, list[Any]] = await self._consumer.getmany(
            *places, timeout_ms=timeout_ms, max_records=room
        )
        return fetched

    def _offer(self, place: TopicPartition, message: Any) -> None:
        """Queues a record; one that is superseded is finished. Raises `InvalidRecord`."""
        self._tracker.begin(place, message.offset)
        arrived = Queued(
            trigger=self._decoder.decode(message.value or b""),
            source=_source(place, message),
            refresh=place.topic == topics.INSTRUCTION_REFRESHES,
        )
        superseded = self._queue.offer(arrived)
        if superseded is not None:
            metrics.INSTRUCTIONS.labels(result="superseded").inc()
            self._finish(superseded.source)

    def _begin(self, tasks: asyncio.TaskGroup) -> None:
        while self._queue.in_hand < self._config.in_flight:
            taken = self._queue.take()
            if taken is None:
                break
            tasks.create_task(self._work(tasks, taken))
        for topic, waiting in zip(READ, (self._queue.triggers, self._queue.refreshes), strict=True):
            metrics.WAITING_RECORDS.labels(topic=topic).set(waiting)

    async def _work(self, tasks: asyncio.TaskGroup, taken: Queued) -> None:
        await self._write(taken.trigger, taken.source)
        self._finish(taken.source)
        self._queue.done(taken)
        self._begin(tasks)

    async def _bury(self, source: Source, error: InvalidRecord) -> None:
        await asyncio.wrap_future(self._dead_letters.send(source, rejection_of(error)))
        self._finish(source)

    def _finish(self, source: Source) -> None:
        self._tracker.finish(TopicPartition(source.topic, source.partition), source.offset)

    async def _write(self, trigger: InstructionTrigger, source: Source) -> None:
        erased_ms = await self._erased_ms(trigger.user_id)
        kept = since(trigger, erased_ms)
        if kept is None:
            metrics.INSTRUCTIONS.labels(result="erased").inc()  # no reasoner sees the window either
            return
        begun = time.monotonic()
        try:
            made = await _with_redis(lambda: self._composer.compose(kept, _now_ms(), erased_ms))
        except EncoderMismatch:
            raise  # nothing that comes will be better: the trigger waits for the right encoder
        except Exception as error:
            metrics.INSTRUCTIONS.labels(result="failed").inc()
            logger.exception("no instruction", extra={"trigger": trigger.trigger_id})
            await asyncio.wrap_future(self._dead_letters.send(source, failure(error)))
            return
        metrics.REASONING_SECONDS.observe(time.monotonic() - begun)
        stored = await _with_redis(lambda: self._stored(made))
        if stored is None:
            if await self._erased_ms(trigger.user_id) != erased_ms:
                await self._write(trigger, source)  # erased meanwhile: of what came after, anew
            else:
                metrics.INSTRUCTIONS.labels(result="superseded").inc()
            return
        now_ms = _now_ms()
        for action in kept.actions:
            delay_ms = now_ms - action.event_time_ms
            metrics.ACTION_TO_INSTRUCTION_SECONDS.observe(delay_ms / 1_000)
        await asyncio.wrap_future(self._producer.send(topics.INSTRUCTIONS, stored, stored.user_id))
        metrics.INSTRUCTIONS.labels(result="stored").inc()
        said = {"trigger": trigger.trigger_id, "instruction": stored.instruction_id}
        logger.debug("instruction stored", extra=said)

    async def _erased_ms(self, user_id: str) -> int | None:
        return await _with_redis(lambda: self._store.erased_ms(user_id))

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


class QueuedPartitions(TrackedPartitions):
    """Drops what waits of revoked partitions too: read again, it must not be taken for a repeat."""

    def __init__(self, tracker: OffsetTracker, queue: TriggerQueue) -> None:
        super().__init__(tracker)
        self._queue = queue

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Forgets the revoked partitions."""
        await super().on_partitions_revoked(revoked)
        self._queue.drop({(place.topic, place.partition) for place in revoked})


async def _with_redis(call: Callable[[], Awaitable[T]]) -> T:
    """Returns the call's result; while Redis is away it waits, for nothing may be skipped."""
    while True:
        try:
            return await call()
        except RedisError as error:
            logger.warning("Redis does not answer", extra={"cause": str(error)})
            await asyncio.sleep(RETRY_S)


def _source(place: TopicPartition, message: Any) -> Source:
    return Source(
        topic=place.topic,
        partition=place.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
