"""The text encoder behind Triton's gRPC: vectors of the one encoder that was asked for, or none.

Texts travel as UTF-8 bytes and are cut into tokens by the server: an agent needs neither torch nor
a tokenizer, and the words can never be those of another vocabulary than the weights.
"""

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from schemas.encoding import BadEncodingRequest, EncoderMismatch, EncoderUnavailable
from streams import metrics
from streams.connections import TritonConfig
from streams.triton_client import BACKSTOP_MS, CHANNEL, FAULT, cause_of
from streams.triton_tensors import UnexpectedTensors, infer_inputs, text_arrays, vectors_of

Floats = npt.NDArray[np.float32]

# A search waits for what stands before it, and Triton's own priorities stalled requests by 0.5 s:
# so workers send little at once. 8 item texts take 30 ms on one thread, 15 % more than in 32s.
TEXTS_AT_ONCE = 8
WORKER_REQUESTS = 2  # of one worker in flight; the rest of a burst of windows waits here
ATTEMPT_MS = 10_000  # 16 such requests on a busy core take 2 s: what takes longer hangs
RETRY_S = 0.5

logger = logging.getLogger(__name__)


class TritonEncoder:
    """The port `TextEncoder` on a Triton server; an async context. One event loop, one channel."""

    def __init__(self, config: TritonConfig, *, generation: int, encoder_id: str, dim: int) -> None:
        """Prepares a client for the encoder of a generation, as its manifest names it."""
        self._config = config
        self._generation = generation
        self._encoder_id = encoder_id
        self._dim = dim
        self._client: InferenceServerClient | None = None
        self._worker_slots = asyncio.Semaphore(WORKER_REQUESTS)

    @property
    def encoder_id(self) -> str:
        """What every answer must be stamped with."""
        return self._encoder_id

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._dim

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

    async def encode(self, texts: Sequence[str], *, deadline_ms: int | None = None) -> Floats:
        """Returns [len(texts), dim] float32 rows of length 1 (0 for a text without a token).

        Within `deadline_ms` there is one attempt, and `EncoderUnavailable` after it. Without a
        deadline it waits for a server that is gone or late: a worker may skip nothing. Raises
        `EncoderMismatch` for an answer of another encoder, and `BadEncodingRequest`.
        """
        rows = np.zeros((len(texts), self._dim), dtype=np.float32)
        until = None if deadline_ms is None else time.monotonic() + deadline_ms / 1_000
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = texts[start : start + TEXTS_AT_ONCE]
            if until is None:
                async with self._worker_slots:
                    vectors = await self._patiently(part)
            else:
                vectors = await self._once(part, int((until - time.monotonic()) * 1_000))
            rows[start : start + len(part)] = vectors
        return rows

    async def _patiently(self, texts: Sequence[str]) -> Floats:
        waited = False
        while True:
            try:
                return await self._once(texts, ATTEMPT_MS)
            except EncoderUnavailable as error:
                metrics.ENCODER_RETRIES.labels(cause=error.cause).inc()
                if not waited:
                    logger.warning("waiting for the text encoder", extra={"cause": str(error)})
                waited = True
            await asyncio.sleep(RETRY_S)

    async def _once(self, texts: Sequence[str], deadline_ms: int) -> Floats:
        if deadline_ms <= 0:
            raise self._unavailable("late", "no time left")
        start = time.perf_counter()
        try:
            # gRPC keeps the deadline; this only bounds what is around it.
            async with asyncio.timeout((deadline_ms + BACKSTOP_MS) / 1_000):
                result = await self._open().infer(
                    self._config.encoder_model,
                    infer_inputs(text_arrays(texts)),
                    model_version=str(self._generation),
                    client_timeout=deadline_ms / 1_000,
                )
        except InferenceServerException as error:
            raise self._failed(error) from error
        except TimeoutError as error:
            raise self._unavailable("late", f"no answer within {deadline_ms} ms") from error
        finally:
            metrics.ENCODER_SECONDS.observe(time.perf_counter() - start)
        encoder_id, vectors = vectors_of(result)
        if encoder_id != self._encoder_id:
            raise EncoderMismatch(
                place=self._place,
                found=encoder_id,
                wanted=self._encoder_id,
                remedy="load the version that this generation was published with",
            )
        if vectors.shape != (wanted := (len(texts), self._dim)):
            raise UnexpectedTensors(name="VECTORS", found=str(vectors.shape), wanted=str(wanted))
        return vectors.astype(np.float32, copy=False)

    @property
    def _place(self) -> str:
        return f"{self._config.encoder_model}/{self._generation} at {self._config.grpc_url}"

    def _failed(self, error: InferenceServerException) -> EncoderUnavailable | BadEncodingRequest:
        fault: re.Match[str] | None = FAULT.search(str(error.message()))
        if fault is not None:
            return BadEncodingRequest(**fault.groupdict())
        return self._unavailable(cause_of(error), str(error.message()))

    def _unavailable(self, cause: str, detail: str) -> EncoderUnavailable:
        return EncoderUnavailable(cause=cause, place=self._place, detail=detail)

    def _open(self) -> InferenceServerClient:
        if self._client is None:
            raise RuntimeError("TritonEncoder is used outside of `async with`")
        return self._client
