"""The encoder's client without a server: what is in flight, and what is asked again."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from schemas.encoding import EncoderMismatch, EncoderUnavailable
from streams import triton_encoder
from streams.connections import TritonConfig
from streams.triton_encoder import TEXTS_AT_ONCE, WORKER_REQUESTS, TritonEncoder
from streams.triton_tensors import UnexpectedTensors

DIM = 3


class Answer:
    """What Triton returns: `dim` ones a text, stamped."""

    def __init__(self, texts: int, encoder_id: str, dim: int) -> None:
        self._arrays = {
            "VECTORS": np.ones((1, texts, dim), dtype=np.float32),
            "ENCODER_ID": np.frombuffer(encoder_id.encode(), dtype=np.uint8)[None],
        }

    def as_numpy(self, name: str) -> Any:
        return self._arrays[name]


class Server:
    """Answers when it is let; counts what waits at the same time. `faults` come first."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.in_flight: list[int] = []
        self.most_in_flight = 0
        self.sizes: list[int] = []
        self.faults: list[str] = []
        self.encoder_id, self.dim = "bert-1", DIM

    async def infer(self, model: str, inputs: list[Any], **asked: Any) -> Answer:
        texts = inputs[1].shape()[1]
        self.sizes.append(texts)
        self.in_flight.append(texts)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        if self.faults:
            self.in_flight.pop()
            raise InferenceServerException("away", status=self.faults.pop(0))
        await self.let.wait()
        self.in_flight.pop()
        return Answer(texts, self.encoder_id, self.dim)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def encoder(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonEncoder]:
    monkeypatch.setattr(triton_encoder, "RETRY_S", 0.001)
    made = TritonEncoder(TritonConfig(), generation=1, encoder_id="bert-1", dim=DIM)
    made._client = server
    yield made
    made._client = None


async def test_a_burst_of_a_worker_leaves_room_and_a_search_does_not_wait_for_it(
    encoder: TritonEncoder, server: Server
) -> None:
    burst = [asyncio.create_task(encoder.encode(["made"])) for _ in range(20)]
    await asyncio.sleep(0.01)
    assert len(server.in_flight) == WORKER_REQUESTS
    search = asyncio.create_task(encoder.encode(["tea"], deadline_ms=5_000))
    await asyncio.sleep(0.01)
    assert len(server.in_flight) == WORKER_REQUESTS + 1
    server.let.set()
    await asyncio.gather(search, *burst)
    assert server.most_in_flight == WORKER_REQUESTS + 1


async def test_many_texts_go_one_request_after_the_other(
    encoder: TritonEncoder, server: Server
) -> None:
    server.let.set()
    texts = ["item"] * (2 * TEXTS_AT_ONCE + 1)
    assert (await encoder.encode(texts)).shape == (len(texts), DIM)
    assert server.sizes == [TEXTS_AT_ONCE, TEXTS_AT_ONCE, 1]
    assert server.most_in_flight == 1


async def test_a_worker_asks_again_whatever_is_wrong_with_the_server(
    encoder: TritonEncoder, server: Server
) -> None:
    server.let.set()
    server.faults = ["StatusCode.UNAVAILABLE", "StatusCode.INTERNAL", "StatusCode.NOT_FOUND"]
    assert (await encoder.encode(["made"])).all()
    assert len(server.sizes) == 4


async def test_a_search_asks_once(encoder: TritonEncoder, server: Server) -> None:
    server.faults = ["StatusCode.UNAVAILABLE"]
    with pytest.raises(EncoderUnavailable, match=r"text_encoder/1 at .*: gone: away"):
        await encoder.encode(["tea"], deadline_ms=50)
    with pytest.raises(EncoderUnavailable, match="late"):
        await encoder.encode(["tea"], deadline_ms=10)
    with pytest.raises(EncoderUnavailable, match="no time left"):
        await encoder.encode(["tea"], deadline_ms=0)
    assert len(server.sizes) == 2


async def test_what_another_encoder_answers_is_never_returned(
    encoder: TritonEncoder, server: Server
) -> None:
    server.let.set()
    server.encoder_id, server.dim = "bert-2", DIM + 1
    with pytest.raises(EncoderMismatch, match="found text encoder bert-2, wanted bert-1"):
        await encoder.encode(["made"])
    server.encoder_id = "bert-1"
    with pytest.raises(UnexpectedTensors, match="VECTORS"):
        await encoder.encode(["made"])
