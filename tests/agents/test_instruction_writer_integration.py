"""The instruction writer and a model, real Kafka and Redis: newest triggers, nothing lost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import redis.asyncio

from agents.instruction_writer import GROUP, run
from agents.settings import Settings, load_settings
from schemas import topics
from schemas.actions import ActionType, UserAction, UserErased
from schemas.instructions import InstructionTrigger, ReasoningInstruction, trigger_id_of
from schemas.topics import topic_table
from streams import metrics
from streams.connections import KafkaConfig, RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.producer import RecordProducer
from streams.redis_client import worker_client
from streams.redis_history import RedisErasures
from streams.redis_instructions import RedisInstructions
from tests.agents.near_line import PARTITIONS, Logs, fit_generation
from tests.streams.chat_server import ChatServer, Reply, chat_server, completion

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
WINDOW_MS = 1_000


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path_factory.mktemp("writer-kafka")) as kafka:
        kafka.ensure_topics(topic_table(PARTITIONS))
        yield kafka


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer-home")
    fit_generation(folder)
    return folder


@pytest.fixture
async def client(redis_server: LocalRedis) -> AsyncIterator[redis.asyncio.Redis]:
    made = worker_client(RedisConfig(url=redis_server.url))
    yield made
    await made.aclose()


def trigger(user: str, end_ms: int, *words: str) -> InstructionTrigger:
    searched = [
        UserAction(
            event_id=f"{user}-{word}",
            user_id=user,
            action=ActionType.SEARCH,
            query=word,
            event_time_ms=end_ms - 1,
        )
        for word in words
    ]
    return InstructionTrigger(
        trigger_id=trigger_id_of(user, end_ms - WINDOW_MS),
        user_id=user,
        window_start_ms=end_ms - WINDOW_MS,
        window_end_ms=end_ms,
        actions=searched,
    )


@asynccontextmanager
async def writing(
    broker: LocalKafka, redis_server: LocalRedis, home: Path, server: ChatServer
) -> AsyncIterator[Settings]:
    """The worker, with two calls in flight; cancelled at the end, as SIGTERM cancels it."""
    settings = load_settings(
        {
            "OXYGENREC_KAFKA__BOOTSTRAP": broker.bootstrap,
            "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
            "OXYGENREC_REDIS__URL": redis_server.url,
            "OXYGENREC_PATHS__HOME": str(home),
            "OXYGENREC_INSTRUCTIONS__REASONER": "chat",
            "OXYGENREC_INSTRUCTIONS__IN_FLIGHT": "2",
            "OXYGENREC_CHAT__URL": server.url,
            "OXYGENREC_CHAT__MODEL": "small",
        }
    )
    task = asyncio.create_task(run(settings))
    try:
        yield settings
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def eventually(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        await asyncio.sleep(0.05)


async def instruction(client: redis.asyncio.Redis, user: str) -> ReasoningInstruction:
    deadline = time.monotonic() + 30
    while (found := await RedisInstructions(client).read(1, user)) is None:
        assert time.monotonic() < deadline, f"no instruction of {user} within 30 s"
        await asyncio.sleep(0.05)
    return found


def searched_in(server: ChatServer) -> list[str]:
    """The newest search that each request told the model, "" for none."""
    found = []
    for request in server.requests:
        user = request["messages"][1]["content"]
        brief = json.loads(user.partition("<data>")[2].partition("</data>")[0])
        found.append(brief["searches"][0]["words"] if "searches" in brief else "")
    return found


def actions_known() -> float:
    """How many actions the delay until their instruction was measured of."""
    lines = metrics.exposition().decode().splitlines()
    counts = (line for line in lines if "action_to_instruction_seconds_count" in line)
    return float(next(line for line in counts if line[0] != "#").split()[1])


def superseded() -> float:
    return float(metrics.INSTRUCTIONS.labels(result="superseded")._value.get())


async def test_the_newest_trigger_of_a_user_is_reasoned_about_and_refreshes_come_last(
    broker: LocalKafka, redis_server: LocalRedis, home: Path, client: redis.asyncio.Redis
) -> None:
    now_ms, before = time.time_ns() // 1_000_000, superseded()
    known_before = actions_known()
    with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
        for user in ("gil", "hal", "ida"):
            refresh = trigger(user, now_ms - 20_000)
            producer.send(topics.INSTRUCTION_REFRESHES, refresh, user)
        for number in range(5):
            ann = trigger("w-ann", now_ms - 10_000 + number, f"ann-{number}")
            producer.send(topics.INSTRUCTION_TRIGGERS, ann, "w-ann")
        for user in ("w-bob", "w-cid"):
            producer.send(topics.INSTRUCTION_TRIGGERS, trigger(user, now_ms, user), user)
        producer.send(topics.INSTRUCTION_TRIGGERS, b"poison", "w-ann")
        producer.flush(10_000)
    async with (
        chat_server(Reply(body=completion(), delay_s=0.1)) as server,
        writing(broker, redis_server, home, server),
    ):
        made = [await instruction(client, user) for user in ("w-ann", "w-bob", "ida", "hal", "gil")]
        await asyncio.sleep(1.0)  # a poll later everything is committed
    assert made[0].trigger_id == f"w-ann:{now_ms - 10_000 + 4 - WINDOW_MS}"
    assert all(one.reasoner.startswith("chat/small/") for one in made)
    asked = searched_in(server)
    assert sorted(asked) == ["", "", "", "ann-4", "w-bob", "w-cid"]
    assert superseded() == before + 4
    assert actions_known() == known_before + 3  # one of each window; a refresh holds none
    assert {"ann-4", "w-bob", "w-cid"} <= set(asked[:4])
    logs = Logs(broker.bootstrap)
    for topic in (topics.INSTRUCTION_TRIGGERS, topics.INSTRUCTION_REFRESHES):
        committed = logs.committed(GROUP, topic, broker.bootstrap)
        ends = logs.ends(topic)
        assert [max(0, offset) for offset in committed] == ends
    logs.close()


async def test_a_writer_that_is_stopped_in_a_call_leaves_no_user_without_the_newest(
    broker: LocalKafka, redis_server: LocalRedis, home: Path, client: redis.asyncio.Redis
) -> None:
    now_ms = time.time_ns() // 1_000_000
    users = [f"stopped-{number}" for number in range(6)]
    with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
        for end_ms in (now_ms - 2, now_ms - 1, now_ms):
            for user in users:
                producer.send(topics.INSTRUCTION_TRIGGERS, trigger(user, end_ms, user), user)
        producer.flush(10_000)
    async with (
        chat_server(Reply(body=completion(), delay_s=5)) as slow,
        writing(broker, redis_server, home, slow),
    ):
        await eventually(lambda: len(slow.bodies) == 2, "two calls in flight")
        await asyncio.sleep(0.5)  # offsets of what was superseded may be committed meanwhile
    async with chat_server() as server, writing(broker, redis_server, home, server):
        made = [await instruction(client, user) for user in users]
    assert {one.as_of_ms for one in made} == {now_ms}
    assert slow.most_in_hand == 2


async def test_no_reasoner_sees_the_window_of_an_erased_user(
    broker: LocalKafka, redis_server: LocalRedis, home: Path, client: redis.asyncio.Redis
) -> None:
    now_ms = time.time_ns() // 1_000_000
    erased = UserErased(event_id="e", user_id="w-erased", event_time_ms=now_ms)
    await RedisErasures(client).apply(erased)
    with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
        for user in ("w-erased", "w-kept"):
            windowed = trigger(user, now_ms + 1, user)
            producer.send(topics.INSTRUCTION_TRIGGERS, windowed, user).result(10)
    async with chat_server() as server, writing(broker, redis_server, home, server):
        await instruction(client, "w-kept")
        await asyncio.sleep(0.5)  # the other one may stand behind it
    assert "w-kept" in searched_in(server)
    assert "w-erased" not in searched_in(server)
    assert await RedisInstructions(client).read(1, "w-erased") is None


async def test_a_user_erased_while_the_model_thinks_gets_nothing_of_before(
    broker: LocalKafka, redis_server: LocalRedis, home: Path, client: redis.asyncio.Redis
) -> None:
    now_ms = time.time_ns() // 1_000_000
    # of two words the older was said before the erasure, which is older than the window's end
    both = trigger("w-late", now_ms, "old words", "new words")
    before = msgspec.structs.replace(both.actions[0], event_time_ms=now_ms - 500)
    both = msgspec.structs.replace(both, actions=[before, both.actions[1]])
    gone = trigger("w-gone", now_ms, "gone words")
    async with (
        chat_server(Reply(body=completion(), delay_s=1.0)) as server,
        writing(broker, redis_server, home, server),
    ):
        with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
            for one in (both, gone):
                producer.send(topics.INSTRUCTION_TRIGGERS, one, one.user_id)
            producer.flush(10_000)
        await eventually(lambda: len(server.requests) == 2, "both windows are being thought about")
        for user, at_ms in (("w-late", now_ms - 100), ("w-gone", now_ms)):
            erased = UserErased(event_id="e", user_id=user, event_time_ms=at_ms)
            await RedisErasures(client).apply(erased)
        made = await instruction(client, "w-late")
        await asyncio.sleep(0.5)  # the other one was being written with it
    assert made.after_erasure_ms == now_ms - 100
    assert searched_in(server)[2:] == ["new words"]
    assert await RedisInstructions(client).read(1, "w-gone") is None
    assert await client.exists("instruction:1:w-gone") == 0


async def test_with_the_model_gone_the_local_text_is_written(
    broker: LocalKafka, redis_server: LocalRedis, home: Path, client: redis.asyncio.Redis
) -> None:
    now_ms = time.time_ns() // 1_000_000
    with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
        lost = trigger("w-lost", now_ms, "copper kettle")
        producer.send(topics.INSTRUCTION_TRIGGERS, lost, "w-lost").result(10)
    async with (
        chat_server(Reply(status=500)) as server,
        writing(broker, redis_server, home, server),
    ):
        made = await instruction(client, "w-lost")
    assert made.reasoner == "local/1"
    assert 'searches "copper kettle"' in made.text
