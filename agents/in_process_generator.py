"""The generator in this very process: where Triton's binary cannot run (needs torch).

The same engine that Triton's model runs, on one thread. A request that times out while it is being
decoded is answered late all the same: the thread is not interrupted, only not waited for.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from agents.catalogue_replica import CatalogueReplica
from agents.settings import Settings
from schemas.errors import OxygenRecError
from schemas.generation import (
    BadGenerationRequest,
    GenerationRequest,
    GenerationResponse,
    GeneratorUnavailable,
)
from streams import metrics

KEPT = 2  # the version in force, and the one before it while requests are under way

logger = logging.getLogger(__name__)


class InProcessGenerator:
    """The port `Generator` without a server; an async context."""

    def __init__(self, versions: Path, settings: Settings) -> None:
        """`versions` holds a folder a policy version: `model_repository/generator`."""
        self._versions = versions
        self._settings = settings
        self._max_in_flight = settings.triton.max_in_flight
        self._in_flight = 0
        self._replicas: dict[int, CatalogueReplica] = {}
        self._thread = ThreadPoolExecutor(1, "generator")

    async def __aenter__(self) -> Self:
        """Says what this is."""
        torch.set_num_threads(1)  # more threads than one only wait for the trainer's
        logger.warning("no Triton: the generator runs inside this process, on one thread")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the thread after the request it is at."""
        self._thread.shutdown(cancel_futures=True)
        for version in list(self._replicas):
            self._forget(version)

    async def prepare(self, version: int) -> None:
        """Loads a version beside the one that serves; what cannot be loaded is logged.

        The two prepared last are kept: a roll back goes to a smaller number.
        """
        if version in self._replicas:
            self._replicas[version] = self._replicas.pop(version)
            return
        folder = self._versions / str(version)
        try:
            replica = await asyncio.to_thread(self._replica, folder)
        except (OSError, OxygenRecError):
            logger.exception("policy version cannot be loaded", extra={"folder": str(folder)})
            return
        self._replicas[version] = replica
        for old in list(self._replicas)[:-KEPT]:
            self._forget(old)

    def _replica(self, folder: Path) -> CatalogueReplica:
        replica = CatalogueReplica(folder, metrics.UNKNOWN_ITEMS.inc)
        lag = metrics.INDEX_LAG.labels(policy_version=replica.version)
        lag.set_function(lambda: replica.lag_s)
        metrics.COMPILED.labels(policy_version=replica.version).set(replica.is_compiled)
        replica.follow(self._settings)
        return replica

    def _forget(self, version: int) -> None:
        self._replicas.pop(version).close()
        metrics.INDEX_LAG.remove(str(version))
        metrics.COMPILED.remove(str(version))

    async def generate(
        self, request: GenerationRequest, *, version: int, deadline_ms: int
    ) -> GenerationResponse:
        """Decodes with policy `version`.

        Raises `GeneratorUnavailable` (cause late, full or version) and `BadGenerationRequest`.
        """
        replica = self._replicas.get(version)
        if replica is None:
            detail = f"not loaded; loaded are {sorted(self._replicas)}"
            raise GeneratorUnavailable(cause="version", version=version, detail=detail)
        if self._in_flight >= self._max_in_flight:
            detail = f"{self._in_flight} requests are in flight"
            raise GeneratorUnavailable(cause="full", version=version, detail=detail)
        self._in_flight += 1
        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline_ms / 1_000):
                answers: Sequence[
                    GenerationResponse | BadGenerationRequest
                ] = await loop.run_in_executor(self._thread, replica.engine.generate, [request])
        except TimeoutError as error:
            detail = f"no answer within {deadline_ms} ms"
            raise GeneratorUnavailable(cause="late", version=version, detail=detail) from error
        finally:
            self._in_flight -= 1
            metrics.GENERATOR_SECONDS.observe(time.perf_counter() - start)
        if isinstance(answers[0], BadGenerationRequest):
            raise answers[0]
        return answers[0]
