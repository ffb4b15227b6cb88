"""Triton's `text_encoder` and who asks it: one bad request, a wrong encoder, a server that is gone;
the catalog indexer and the instruction writer with it on real Kafka and Redis, without torch.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from agents.encoder_publisher import publish_encoder
from agents.settings import PathsConfig, Settings
from models.reasoning.item_text import item_text
from models.reasoning.minilm import MiniLmEncoder
from models.semantic_ids.assignment import Codebooks
from models.vectors import pack, unpack
from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert, SidAssignment
from schemas.encoding import EncoderMismatch, EncoderUnavailable
from schemas.instructions import InstructionTrigger, ReasoningInstruction, trigger_id_of
from schemas.topics import topic_table
from streams.connections import KafkaConfig, RedisConfig, TritonConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.local.triton import LocalTriton
from streams.producer import RecordProducer
from streams.redis_epoch import begin_epoch
from streams.triton_encoder import TritonEncoder
from streams.triton_tensors import infer_inputs, text_arrays, vectors_of
from tests.agents.encoder_generation import write_generation
from tests.agents.near_line import PARTITIONS, Logs, WorkerProcess, eventually, worker_environment

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

GENERATION = 1
WORDS = ("red umbrella", "two red tents", "rain umbrella for two", "tent", "rain", "red red tent")
ITEMS = [ItemUpsert(item_id=f"item-{n}", title=WORDS[n % 6], category="Rain") for n in range(120)]
NOW_MS = 1_783_000_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder-home")
    (folder / "model_repository").mkdir()
    return folder


@pytest.fixture(scope="module")
def local(home: Path) -> MiniLmEncoder:
    return write_generation(home, GENERATION)


@pytest.fixture(scope="module")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    with LocalTriton(home / "model_repository", tmp_path_factory.mktemp("triton")) as started:
        yield started


@pytest.fixture(scope="module")
def settings(home: Path, server: LocalTriton) -> Settings:
    return Settings(
        paths=PathsConfig(home=str(home)), triton=TritonConfig(grpc_url=server.grpc_url)
    )


@pytest.fixture
async def remote(settings: Settings, local: MiniLmEncoder) -> AsyncIterator[TritonEncoder]:
    async with encoder(settings, local.encoder_id, local.dim) as opened:
        yield opened


def encoder(settings: Settings, encoder_id: str, dim: int) -> TritonEncoder:
    return TritonEncoder(settings.triton, generation=GENERATION, encoder_id=encoder_id, dim=dim)


async def test_a_worker_waits_for_an_encoder_that_is_not_loaded_and_a_deadline_does_not(
    settings: Settings, remote: TritonEncoder, local: MiniLmEncoder
) -> None:
    with pytest.raises(EncoderUnavailable) as raised:
        await remote.encode(["rain"], deadline_ms=2_000)
    assert raised.value.cause == "version"
    waiting = asyncio.create_task(remote.encode(["rain"]))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert await publish_encoder(settings, GENERATION)
    np.testing.assert_allclose(await waiting, local.encode(["rain"]), atol=1e-5)


async def test_a_bad_request_in_a_batch_harms_nobody(
    settings: Settings, remote: TritonEncoder, local: MiniLmEncoder
) -> None:
    texts = [f"{word} {'two ' * (n % 5)}" for n, word in enumerate(WORDS * 8)]
    bad = text_arrays(["red"])
    bad["TEXT_ENDS"] = np.array([[2, 1]], dtype=np.int64)
    async with InferenceServerClient(settings.triton.grpc_url) as client:
        refusals = [
            client.infer("text_encoder", infer_inputs(bad), model_version=str(GENERATION))
            for _ in range(8)
        ]
        answers = [remote.encode([text]) for text in texts]
        found = await asyncio.gather(*refusals, *answers, return_exceptions=True)
        statistics = await client.get_inference_statistics("text_encoder")
    for refused in found[:8]:
        assert isinstance(refused, InferenceServerException)
        assert "field TEXT_ENDS: found [2, 1], wanted rising ends up to 3" in str(refused)
    rows = np.concatenate([row for row in found[8:] if isinstance(row, np.ndarray)])
    np.testing.assert_allclose(rows, local.encode(texts), atol=1e-5)
    [model] = statistics.model_stats
    assert model.execution_count < model.inference_count  # they did stand in one batch


async def test_an_answer_of_another_encoder_is_refused(
    settings: Settings, local: MiniLmEncoder
) -> None:
    async with encoder(settings, "bert-0", local.dim) as other:
        with pytest.raises(EncoderMismatch, match=f"found text encoder {local.encoder_id}, wanted"):
            await other.encode(["rain"])
        with pytest.raises(EncoderMismatch, match="text_encoder/1 at 127"):
            await other.encode(["rain"], deadline_ms=5_000)


async def test_a_server_that_hangs_is_late_for_a_search_and_a_worker_waits(
    server: LocalTriton, remote: TritonEncoder, local: MiniLmEncoder
) -> None:
    await remote.encode(["rain"])  # connected
    server.process.signal(signal.SIGSTOP)
    try:
        with pytest.raises(EncoderUnavailable) as raised:
            await remote.encode(["rain"], deadline_ms=50)
        assert raised.value.cause == "late"
        waiting = asyncio.create_task(remote.encode(["tent"]))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    finally:
        server.process.signal(signal.SIGCONT)
    np.testing.assert_allclose(await waiting, local.encode(["tent"]), atol=1e-5)


async def test_texts_beyond_one_request_come_back_in_their_order(
    settings: Settings, remote: TritonEncoder
) -> None:
    texts = [*WORDS] * 20
    found = await remote.encode(texts)
    async with InferenceServerClient(settings.triton.grpc_url) as client:
        result = await client.infer("text_encoder", infer_inputs(text_arrays(WORDS)))
    _, rows = vectors_of(result)
    np.testing.assert_allclose(found, np.tile(rows, (20, 1)), atol=1e-5)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path_factory.mktemp("encoder-kafka")) as kafka:
        kafka.ensure_topics(topic_table(PARTITIONS))
        yield kafka


def test_indexer_and_writer_work_with_it_and_never_load_torch(
    broker: LocalKafka,
    redis_server: LocalRedis,
    settings: Settings,
    local: MiniLmEncoder,
    home: Path,
    tmp_path: Path,
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    client.flushdb()
    begin_epoch(RedisConfig(url=redis_server.url), now_ms=0)
    asyncio.run(publish_encoder(settings, GENERATION))  # again: it changes nothing
    environment = worker_environment(
        broker.bootstrap, redis_server.url, home, **triton_environment(settings)
    )
    names = ("catalog-indexer", "instruction-writer")
    workers = [WorkerProcess(name, environment, tmp_path) for name in names]
    logs = Logs(broker.bootstrap)
    try:
        with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
            for item in ITEMS:
                producer.send(topics.CATALOG, item, item.item_id)
            producer.send(topics.INSTRUCTION_TRIGGERS, trigger("ann", "red tent"), "ann")
        wanted = len(ITEMS)
        eventually(lambda: logs.ends(topics.SEMANTIC_IDS, 1) == [wanted], 60, f"see {tmp_path}")
        stored = eventually(lambda: client.hget("instruction:1:ann", "record"), 30, str(tmp_path))
        loaded = [maps_of(worker) for worker in workers]
    finally:
        codes = [worker.stop() for worker in workers]
        assignments = [
            msgspec.json.decode(message.value() or b"", type=SidAssignment)
            for message in logs.read(topics.SEMANTIC_IDS, 1)[0]
        ]
        logs.close()
    assert codes == [0, 0]
    vectors = local.encode([item_text(item) for item in ITEMS])
    sids = Codebooks.load(home / "generations" / "1").assign(vectors)
    found = {assignment.item_id: assignment for assignment in assignments}
    for item, vector, sid in zip(ITEMS, vectors, sids, strict=True):
        assert found[item.item_id].sid == sid.tolist()
        np.testing.assert_allclose(unpack(found[item.item_id].embedding), vector, atol=1e-3)
    instruction = msgspec.json.decode(stored, type=ReasoningInstruction)
    assert instruction.encoder_id == local.encoder_id
    assert "red tent" in instruction.text
    [expected] = local.encode([instruction.text])
    np.testing.assert_allclose(unpack(instruction.vector), unpack(pack(expected)), atol=2e-3)
    assert not [line for maps in loaded for line in maps if "libtorch" in line]


@pytest.mark.parametrize("name", ["catalog-indexer", "instruction-writer"])
def test_a_worker_of_another_generation_is_refused_at_its_start_in_one_line(
    name: str,
    broker: LocalKafka,
    redis_server: LocalRedis,
    settings: Settings,
    local: MiniLmEncoder,
    tmp_path: Path,
) -> None:
    other = write_generation(tmp_path, GENERATION, seed=1)
    asyncio.run(publish_encoder(settings, GENERATION))
    environment = worker_environment(
        broker.bootstrap, redis_server.url, tmp_path, **triton_environment(settings)
    )
    worker = WorkerProcess(name, environment, tmp_path)
    assert worker.wait(60) == 1
    said = worker.log.read_text()
    assert f"found text encoder {local.encoder_id}, wanted {other.encoder_id}" in said
    assert "Traceback" not in said


def triton_environment(settings: Settings) -> dict[str, str]:
    return {"OXYGENREC_TRITON__GRPC_URL": settings.triton.grpc_url}


def maps_of(worker: WorkerProcess) -> list[str]:
    return Path(f"/proc/{worker._process.pid}/maps").read_text().splitlines()


def trigger(user: str, words: str) -> InstructionTrigger:
    searched = UserAction(
        event_id=f"{user}-1",
        user_id=user,
        action=ActionType.SEARCH,
        query=words,
        event_time_ms=NOW_MS - 1,
    )
    return InstructionTrigger(
        trigger_id=trigger_id_of(user, NOW_MS - 2_000),
        user_id=user,
        window_start_ms=NOW_MS - 2_000,
        window_end_ms=NOW_MS,
        actions=[searched],
    )
