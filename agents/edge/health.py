"""Whether the edge can do its work: Kafka, Redis, and a canary request to the generator.

The canary is a real decode: a dead python stub behind Triton's "ready" is seen by nothing else.
"""

import asyncio
from collections.abc import Callable
from typing import Literal

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from agents.ports import Generator
from agents.settings import Settings
from schemas.generation import BadGenerationRequest, GenerationRequest, GeneratorUnavailable
from schemas.impressions import HistoryFeatures
from schemas.policies import PolicyPublished
from streams.producer import RecordProducer

KAFKA_TIMEOUT_S = 1.0
CANARY_TIMEOUT_MS = 1_000  # readiness is no latency test: a busy generator is ready

OK = "ok"


class Readiness(Struct, frozen=True, kw_only=True):
    """`ok`, or what is wrong, part by part; `policy_version` is the one that the canary ran on."""

    status: Literal["ready", "not ready"]
    kafka: str
    redis: str
    generator: str
    policy_version: int | None


class EdgeHealth:
    """Asks the parts anew at every call."""

    def __init__(
        self,
        settings: Settings,
        producer: RecordProducer,
        redis: Redis,
        generator: Generator,
        policy: Callable[[], PolicyPublished | None],
    ) -> None:
        self._settings = settings
        self._producer = producer
        self._redis = redis
        self._generator = generator
        self._policy = policy

    async def ready(self) -> Readiness:
        """Returns what every part says."""
        kafka, redis, (generator, version) = await asyncio.gather(
            self._kafka(), self._redis_says(), self._canary()
        )
        ready = kafka == redis == generator == OK
        return Readiness(
            status="ready" if ready else "not ready",
            kafka=kafka,
            redis=redis,
            generator=generator,
            policy_version=version,
        )

    async def _kafka(self) -> str:
        reachable = await asyncio.to_thread(self._producer.reachable, KAFKA_TIMEOUT_S)
        return OK if reachable else f"no broker answers at {self._settings.kafka.bootstrap}"

    async def _redis_says(self) -> str:
        try:
            await self._redis.ping()
        except (RedisError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return OK

    async def _canary(self) -> tuple[str, int | None]:
        policy = self._policy()
        if policy is None:
            return "no policy is announced in `policies` yet", None
        canary = GenerationRequest(
            scenario=self._settings.serving.scenarios[0],
            history=HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[]),
            beams=self._settings.serving.beams,
        )
        try:
            response = await self._generator.generate(
                canary, version=policy.stable_version, deadline_ms=CANARY_TIMEOUT_MS
            )
        except (GeneratorUnavailable, BadGenerationRequest) as error:
            return str(error), None
        return OK, response.policy_version
