"""The generator behind Triton's gRPC: a deadline, a bound on requests in flight, typed causes.

Admission control stands here and not in Triton: a queue policy there stalls requests for 500 ms.
A client deadline also cancels queued work on the server.
"""

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from schemas.generation import (
    BadGenerationRequest,
    GenerationRequest,
    GenerationResponse,
    GeneratorUnavailable,
)
from streams import metrics
from streams.connections import TritonConfig
from streams.triton_tensors import infer_inputs, request_arrays, response_of

INSTRUCTION = "INSTRUCTION"
BACKSTOP_MS = 5
# gRPC's default waits up to 120 s before it looks for a dead server again; ours is back in 7-16 s.
CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),
)
CAUSES = {
    "StatusCode.UNAVAILABLE": "gone",
    "StatusCode.DEADLINE_EXCEEDED": "late",
    "StatusCode.CANCELLED": "late",
    "StatusCode.NOT_FOUND": "version",
    "StatusCode.RESOURCE_EXHAUSTED": "full",
}

# How a model's own refusal of one request reads (`BadGenerationRequest`, `BadEncodingRequest`)
FAULT = re.compile(r"field (?P<field>\S+): found (?P<found>.*), wanted (?P<wanted>.*)", re.DOTALL)

logger = logging.getLogger(__name__)


class TritonGenerator:
    """The port `Generator` on a Triton server; an async context. One event loop, one channel."""

    def __init__(self, config: TritonConfig, scenarios: Sequence[str]) -> None:
        """Prepares a client; `scenarios` in the order of the model's manifest."""
        self._config = config
        self._scenarios = tuple(scenarios)
        self._client: InferenceServerClient | None = None
        self._in_flight = 0
        self._dims: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        """Opens the channel; the connection is made with the first request."""
        self._client = InferenceServerClient(self._config.grpc_url, channel_args=CHANNEL)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the channel."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def generate(
        self, request: GenerationRequest, *, version: int, deadline_ms: int
    ) -> GenerationResponse:
        """Decodes with policy `version`.

        Raises `GeneratorUnavailable` (cause gone, late, full, version or refused) and
        `BadGenerationRequest`.
        """
        if self._in_flight >= self._config.max_in_flight:
            detail = f"{self._in_flight} requests are in flight"
            raise GeneratorUnavailable(cause="full", version=version, detail=detail)
        self._in_flight += 1
        start = time.perf_counter()
        try:
            # gRPC keeps the deadline; this only bounds what is around it.
            async with asyncio.timeout((deadline_ms + BACKSTOP_MS) / 1_000):
                return await self._infer(request, version, deadline_ms)
        except InferenceServerException as error:
            raise refusal(error, version) from error
        except TimeoutError as error:
            detail = f"no answer within {deadline_ms} ms"
            raise GeneratorUnavailable(cause="late", version=version, detail=detail) from error
        finally:
            self._in_flight -= 1
            metrics.GENERATOR_SECONDS.observe(time.perf_counter() - start)

    async def prepare(self, version: int) -> None:
        """Asks once for what every request of a version needs; a server that is gone is left be."""
        try:
            await self._instruction_dim(version)
        except InferenceServerException as error:
            logger.warning("Triton does not describe the version", extra={"cause": str(error)})

    async def _infer(
        self, request: GenerationRequest, version: int, deadline_ms: int
    ) -> GenerationResponse:
        dim = await self._instruction_dim(version)
        arrays = request_arrays(request, self._scenarios, dim)
        result = await self._open().infer(
            self._config.model,
            infer_inputs(arrays),
            model_version=str(version),
            client_timeout=deadline_ms / 1_000,
        )
        return response_of(result)

    async def _instruction_dim(self, version: int) -> int:
        """Returns D of a version, asked for once: a request without an instruction needs it too."""
        if version not in self._dims:
            metadata = await self._open().get_model_metadata(
                self._config.model, str(version), client_timeout=self._config.deadline_ms / 1_000
            )
            shapes = {tensor.name: list(tensor.shape) for tensor in metadata.inputs}
            self._dims[version] = int(shapes[INSTRUCTION][-1])
        return self._dims[version]

    def _open(self) -> InferenceServerClient:
        if self._client is None:
            raise RuntimeError("TritonGenerator is used outside of `async with`")
        return self._client


def refusal(
    error: InferenceServerException, version: int
) -> GeneratorUnavailable | BadGenerationRequest:
    """Returns Triton's complaint with its cause."""
    detail = str(error.message())
    if (fault := FAULT.search(detail)) is not None:
        return BadGenerationRequest(**fault.groupdict())
    return GeneratorUnavailable(cause=cause_of(error), version=version, detail=detail)


def cause_of(error: InferenceServerException) -> str:
    """Returns why Triton did not answer: gone, late, version, full or refused.

    A version that is being unloaded is UNAVAILABLE too, as a dead server is: only the words differ.
    """
    detail = str(error.message())
    if "not at ready state" in detail or "unknown model" in detail:
        return "version"
    return CAUSES.get(str(error.status()), "refused")
