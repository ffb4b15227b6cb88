"""The profile writer: `users` -> Redis. Runs inside the catalog indexer's process."""

import asyncio
import logging
import time

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from agents.settings import Settings
from schemas import topics
from schemas.codec import RECORDS, Decoder
from schemas.errors import InvalidRecord
from schemas.users import UserProfile
from streams import metrics
from streams.consumer import group_consumer
from streams.dead_letters import DeadLetters, Source, rejection_of
from streams.producer import RecordProducer
from streams.redis_client import worker_client
from streams.redis_profiles import RedisProfiles

NAME = "profile-writer"
GROUP = "oxygenrec-profile-writer"
POLL_MS = 200
RETRY_S = 0.5

logger = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Writes profiles until cancelled. Raises `UndeliveredRecord`."""
    redis = worker_client(settings.redis)
    consumer = group_consumer(settings.kafka, GROUP, NAME)
    consumer.subscribe([topics.USERS])
    with RecordProducer(settings.kafka, f"oxygenrec-{NAME}") as producer:
        writer = ProfileWriter(RedisProfiles(redis), producer)
        try:
            await consumer.start()
            while True:
                fetched = await consumer.getmany(timeout_ms=POLL_MS)
                for place, messages in fetched.items():
                    for message in messages:
                        source = Source(
                            topic=place.topic,
                            partition=place.partition,
                            offset=message.offset,
                            key=message.key,
                            value=message.value,
                        )
                        await writer.apply(source)
                if fetched:
                    try:
                        await consumer.commit()
                    except KafkaError as error:
                        logger.warning("offsets not committed", extra={"cause": str(error)})
        finally:
            await consumer.stop()
            await redis.aclose()


class ProfileWriter:
    """Applies one record of `users` at a time."""

    def __init__(self, profiles: RedisProfiles, producer: RecordProducer) -> None:
        self._profiles = profiles
        self._dead_letters = DeadLetters(producer, NAME, lambda: time.time_ns() // 1_000_000)
        self._decoder: Decoder[UserProfile] = Decoder(RECORDS[topics.USERS])

    async def apply(self, source: Source) -> None:
        """Stores the profile, or deletes it where the record is a tombstone; waits for Redis."""
        metrics.CONSUMED.labels(worker=NAME, topic=topics.USERS).inc()
        try:
            profile = None if source.value is None else self._decoder.decode(source.value)
        except InvalidRecord as error:
            await asyncio.wrap_future(self._dead_letters.send(source, rejection_of(error)))
            return
        while True:
            try:
                result = await self._write(profile, source)
            except RedisError as error:
                logger.warning("Redis does not take profiles", extra={"cause": str(error)})
                await asyncio.sleep(RETRY_S)
            else:
                metrics.PROFILES.labels(result=result).inc()
                return

    async def _write(self, profile: UserProfile | None, source: Source) -> str:
        if profile is not None:
            return "stored" if await self._profiles.put(profile) else "refused"
        await self._profiles.remove((source.key or b"").decode(errors="replace"))
        return "removed"
