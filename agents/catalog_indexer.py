"""The catalog indexer: `catalog` -> semantic ID -> item row in Redis -> `semantic-ids`.

One writer: all members of its group but one stand by (`SoleAssignor`), so that the offset of
`semantic-ids` is the version of the live index. A published SID never moves within a generation:
what the log already says about an item is read back before the first change.

Order of a batch: encode and assign; rows in Redis; assignments produced and acknowledged; commit.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from agents import profile_writer
from agents.artifact_folders import generation_folder, newest_generation
from agents.catalog_index import CatalogIndex, decode_changes
from agents.ports import TextEncoder
from agents.settings import Settings
from agents.text_encoders import open_encoder
from models.reasoning.item_text import item_text
from models.semantic_ids.sid_assigner import SidAssigner
from schemas import topics
from schemas.catalog import ItemRow
from streams import metrics
from streams.admin import check_topics
from streams.catalog_snapshot import read_snapshot
from streams.consumer import group_consumer
from streams.dead_letters import DeadLetters, Source
from streams.producer import RecordProducer
from streams.redis_client import worker_client
from streams.redis_items import RedisItems

NAME = "catalog-indexer"
GROUP = "oxygenrec-catalog-indexer"
BATCH = 500  # texts: 50-100 ms of the built-in encoder, 4 s of all-MiniLM-L6-v2
POLL_MS = 200
RETRY_S = 0.5

logger = logging.getLogger(__name__)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """The frozen parts of one generation."""

    generation: int
    encoder: TextEncoder
    assigner: SidAssigner


async def run(settings: Settings) -> None:
    """Indexes items, and profiles beside them, until cancelled.

    Raises `TopicsDiffer`, `GenerationMissing`, `EncoderMismatch`, `UndeliveredRecord`.
    """
    wanted = (topics.CATALOG, topics.SEMANTIC_IDS, topics.USERS, topics.DEAD_LETTERS)
    check_topics(settings.kafka, wanted)
    async with asyncio.TaskGroup() as workers:
        workers.create_task(_index(settings))
        workers.create_task(profile_writer.run(settings))


async def _index(settings: Settings) -> None:
    generation = newest_generation(settings)
    folder = generation_folder(settings, generation)
    assigner = SidAssigner.load(folder)
    async with open_encoder(settings, generation) as encoder:
        artifacts = Artifacts(generation=generation, encoder=encoder, assigner=assigner)
        await _follow(settings, artifacts)


async def _follow(settings: Settings, artifacts: Artifacts) -> None:
    redis = worker_client(settings.redis)
    consumer = group_consumer(settings.kafka, GROUP, NAME, sole_writer=True)
    with RecordProducer(settings.kafka, f"oxygenrec-{NAME}") as producer:
        indexer = CatalogIndexer(settings, artifacts, consumer, RedisItems(redis), producer)
        try:
            await consumer.start()
            said = {
                "generation": artifacts.generation,
                "text_encoder": artifacts.encoder.encoder_id,
            }
            logger.info("catalog indexer started", extra=said)
            await indexer.run()
        finally:
            await consumer.stop()
            await redis.aclose()
            logger.info("catalog indexer stopped")


class CatalogIndexer:
    """The one member of the group that has partitions; the others wait."""

    def __init__(
        self,
        settings: Settings,
        artifacts: Artifacts,
        consumer: AIOKafkaConsumer,
        items: RedisItems,
        producer: RecordProducer,
    ) -> None:
        self._kafka = settings.kafka
        self._artifacts = artifacts
        self._consumer = consumer
        self._items = items
        self._producer = producer
        self._dead_letters = DeadLetters(producer, NAME, _now_ms)
        self._index: CatalogIndex | None = None
        self._batch = asyncio.Lock()
        consumer.subscribe([topics.CATALOG], listener=_OnRebalance(self))

    async def hand_over(self) -> None:
        """Waits for the batch in hand, then forgets what is published: another member may write."""
        async with self._batch:
            self._index = None

    async def run(self) -> None:
        """Indexes batches until cancelled; what was not committed comes again."""
        while True:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH)
            sources = [
                Source(
                    topic=place.topic,
                    partition=place.partition,
                    offset=message.offset,
                    key=message.key,
                    value=message.value,
                )
                for place, messages in fetched.items()
                for message in messages
            ]
            if sources:
                metrics.CONSUMED.labels(worker=NAME, topic=topics.CATALOG).inc(len(sources))
                async with self._batch:
                    await self._apply(sources)
                    await self._commit()

    async def _apply(self, sources: Sequence[Source]) -> None:
        changes, refused = decode_changes(sources)
        index = self._index or await self._load()
        fresh = index.new_items(changes)
        encoded = await self._artifacts.encoder.encode([*map(item_text, fresh.values())])
        vectors = dict(zip(fresh, encoded, strict=True))
        plan = await asyncio.to_thread(index.plan, changes, vectors, _now_ms())
        await self._write_rows(plan.rows)
        sent = [
            self._producer.send(topics.SEMANTIC_IDS, assignment, assignment.item_id)
            for assignment in plan.assignments
        ]
        sent += [self._dead_letters.send(*letter) for letter in (*refused, *plan.refused)]
        await asyncio.gather(*map(asyncio.wrap_future, sent))
        metrics.ITEMS_INDEXED.inc(len(plan.assignments))
        logger.info("catalogue changed", extra={"assignments": len(plan.assignments)})

    async def _load(self) -> CatalogIndex:
        artifacts = self._artifacts
        published, offset = await read_snapshot(self._kafka, artifacts.generation)
        self._index = CatalogIndex(artifacts.generation, artifacts.assigner, published)
        logger.info("catalogue read", extra={"items": len(published), "index_offset": offset})
        return self._index

    async def _write_rows(self, rows: dict[int, ItemRow | None]) -> None:
        """Writes until Redis has them: an assignment must never be ahead of its row."""
        while True:
            try:
                await self._items.put([row for row in rows.values() if row is not None])
                await self._items.take_down([key for key, row in rows.items() if row is None])
            except RedisError as error:
                logger.warning("Redis does not take rows", extra={"cause": str(error)})
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _commit(self) -> None:
        try:
            await self._consumer.commit()
        except KafkaError as error:
            # Another member goes on, and repeats the batch: what alters nothing is not published.
            logger.warning("offsets not committed", extra={"cause": str(error)})


class _OnRebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Lets the indexer finish its batch, and read the log again when its turn comes again."""

    def __init__(self, indexer: CatalogIndexer) -> None:
        self._indexer = indexer

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._indexer.hand_over()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        logger.info("partitions assigned", extra={"partitions": len(list(assigned))})
