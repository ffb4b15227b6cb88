"""Puts the edge's parts together: Kafka, Redis, the generator, and what runs in the background."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Protocol
from uuid import uuid4

from msgspec import Struct
from redis.asyncio import Redis

from agents.edge.acknowledgement import Acknowledged
from agents.edge.action_intake import ActionIntake
from agents.edge.exploration import ExplorationConfig
from agents.edge.health import EdgeHealth, Readiness
from agents.edge.item_intake import ItemIntake
from agents.edge.popular_items import PopularItems
from agents.edge.profile_intake import ProfileIntake
from agents.edge.query_encoders import QueryEncoders
from agents.edge.recommender import Recommender, RecommenderConfig
from agents.edge.user_context import ContextConfig, ContextReader
from agents.policy_follower import PolicyFollower
from agents.ports import Generator, HistoryStore, InstructionStore, ProfileStore
from agents.settings import Settings
from schemas import topics
from schemas.actions import UserAction, UserErased
from schemas.impressions import Impression
from schemas.policies import PolicyPublished
from streams import metrics
from streams.admin import check_topics
from streams.cloud_events import cloud_event_headers
from streams.producer import Delivered, RecordProducer
from streams.redis_client import edge_client
from streams.redis_history import RedisErasures, RedisHistory
from streams.redis_instructions import RedisInstructions
from streams.redis_items import RedisItems
from streams.redis_profiles import RedisProfiles
from streams.triton_client import TritonGenerator

SOURCE = "/oxygenrec-edge"  # `ce_source` of what enters here
WARM_CONNECTIONS = 12  # three reads a request, four requests at once
WANTED_TOPICS = (
    topics.ACTIONS,
    topics.IMPRESSIONS,
    topics.POLICIES,
    topics.USERS,
    topics.INSTRUCTIONS,
    topics.CATALOG,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What the HTTP routes use."""

    settings: Settings
    intake: ActionIntake
    profile_intake: ProfileIntake
    item_intake: ItemIntake
    recommender: Recommender
    policy: Callable[[], PolicyPublished | None]
    readiness: Callable[[], Awaitable[Readiness]]
    history: HistoryStore
    instructions: InstructionStore
    profiles: ProfileStore


def wall_clock_ms() -> int:
    """Returns milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class PreparedGenerator(Generator, Protocol):
    """A generator that is told of a version before the first request for it."""

    async def prepare(self, version: int) -> None:
        """Loads or looks up what the version needs; never raises because it cannot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is opened once and shared."""

    producer: RecordProducer
    redis: Redis
    generator: Generator
    policy: PolicyFollower
    popular: PopularItems
    encoders: QueryEncoders


@asynccontextmanager
async def open_edge(settings: Settings) -> AsyncIterator[Edge]:
    """Opens every connection and the background tasks, and closes them in turn.

    Raises `TopicsDiffer` or `BrokerSilent` where Kafka is not as the topic table says.
    """
    await asyncio.to_thread(check_topics, settings.kafka, WANTED_TOPICS)
    async with AsyncExitStack() as stack:
        producer = RecordProducer(settings.kafka, "oxygenrec-edge")
        stack.push_async_callback(asyncio.to_thread, producer.close)
        redis = edge_client(settings.redis)
        stack.push_async_callback(redis.aclose)
        await _warm(redis)
        generator = await stack.enter_async_context(_generator(settings))
        encoders = await stack.enter_async_context(QueryEncoders(settings))
        parts = Parts(
            producer=producer,
            redis=redis,
            generator=generator,
            policy=PolicyFollower(settings.kafka, _preparation(encoders, generator)),
            popular=PopularItems(RedisItems(redis), settings.serving.scenarios),
            encoders=encoders,
        )
        background = await stack.enter_async_context(asyncio.TaskGroup())
        for work in (parts.policy.run(), parts.popular.refresh_forever()):
            stack.callback(background.create_task(work).cancel)
        yield _assembled(settings, parts)


async def _warm(redis: Redis) -> None:
    """Opens connections before the first request needs them; a Redis that is away is left be."""
    pings = (redis.ping() for _ in range(WARM_CONNECTIONS))
    await asyncio.gather(*pings, return_exceptions=True)


def _assembled(settings: Settings, parts: Parts) -> Edge:
    def policy() -> PolicyPublished | None:
        return parts.policy.current

    health = EdgeHealth(settings, parts.producer, parts.redis, parts.generator, policy)
    return Edge(
        settings=settings,
        intake=_intake(settings, parts.producer),
        profile_intake=_profile_intake(settings, parts),
        item_intake=_item_intake(settings, parts),
        recommender=_recommender(settings, parts),
        policy=policy,
        readiness=health.ready,
        history=RedisHistory(parts.redis),
        instructions=RedisInstructions(parts.redis),
        profiles=RedisProfiles(parts.redis),
    )


def _intake(settings: Settings, producer: RecordProducer) -> ActionIntake:
    def send(action: UserAction) -> Future[Delivered]:
        headers = cloud_event_headers(action, SOURCE)
        return producer.send(topics.ACTIONS, action, action.user_id, headers=headers)

    return ActionIntake(
        send=send,
        scenarios=frozenset(settings.serving.scenarios),
        now_ms=wall_clock_ms,
        max_actions=settings.http.max_actions,
        acknowledge_ms=settings.http.acknowledge_ms,
    )


def _acknowledged(settings: Settings, parts: Parts) -> Acknowledged:
    def send(topic: str, record: Struct | None, key: str) -> Future[Delivered]:
        headers = cloud_event_headers(record, SOURCE) if isinstance(record, UserErased) else ()
        return parts.producer.send(topic, record, key, headers=headers)

    return Acknowledged(send, within_ms=settings.http.acknowledge_ms)


def _profile_intake(settings: Settings, parts: Parts) -> ProfileIntake:
    return ProfileIntake(
        acknowledged=_acknowledged(settings, parts),
        profiles=RedisProfiles(parts.redis),
        erasures=RedisErasures(parts.redis),
        now_ms=wall_clock_ms,
        new_id=lambda: uuid4().hex,
    )


def _item_intake(settings: Settings, parts: Parts) -> ItemIntake:
    return ItemIntake(
        acknowledged=_acknowledged(settings, parts),
        items=RedisItems(parts.redis),
        scenarios=settings.serving.scenarios,
        now_ms=wall_clock_ms,
    )


def _recommender(settings: Settings, parts: Parts) -> Recommender:
    serving = settings.serving
    items = RedisItems(parts.redis)
    context = ContextReader(
        ContextConfig(
            redis_ms=settings.redis.deadline_ms,
            query_ms=settings.http.query_ms,
            history_length=settings.router.history_length,
            instruction_expires_ms=settings.instructions.expires_ms,
        ),
        history=RedisHistory(parts.redis),
        instructions=RedisInstructions(parts.redis),
        items=items,
        encoder=parts.encoders.of,
    )
    exploration = ExplorationConfig(
        share=serving.exploration_share, temperature=serving.exploration_temperature
    )
    return Recommender(
        RecommenderConfig(
            deadline_ms=settings.http.deadline_ms,
            redis_ms=settings.redis.deadline_ms,
            generator_ms=settings.triton.deadline_ms,
            beams=serving.beams,
            recent=serving.recent,
            exploration=exploration,
        ),
        context=context,
        items=items,
        popular=parts.popular,
        generator=parts.generator,
        policy=lambda: parts.policy.current,
        emit=lambda impression: _emit(parts.producer, impression),
        rng=SystemRandom(),
    )


def _emit(producer: RecordProducer, impression: Impression) -> None:
    """Sends an impression; the answer does not wait, a failure is counted and logged."""
    sent = producer.send(topics.IMPRESSIONS, impression, impression.user_id)
    sent.add_done_callback(lambda sent: _count_failure(sent, impression.request_id))


def _count_failure(sent: Future[Delivered], request_id: str) -> None:
    if (error := sent.exception()) is not None:
        metrics.IMPRESSIONS_FAILED.inc()
        logger.warning("impression lost", extra={"request": request_id, "cause": str(error)})


def _generator(settings: Settings) -> AbstractAsyncContextManager[PreparedGenerator]:
    if settings.triton.grpc_url:
        return TritonGenerator(settings.triton, settings.serving.scenarios)
    from agents.in_process_generator import InProcessGenerator  # needs torch: only where it runs

    versions = Path(settings.paths.home) / "model_repository" / settings.triton.model
    return InProcessGenerator(versions, settings)


def _preparation(
    encoders: QueryEncoders, generator: PreparedGenerator
) -> Callable[[PolicyPublished], Awaitable[None]]:
    async def prepare(announced: PolicyPublished) -> None:
        await encoders.load(announced.generation)
        await generator.prepare(announced.stable_version)

    return prepare
