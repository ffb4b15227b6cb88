"""kill -9 of router and aggregator in the middle of a run: nothing lost, no window closed twice.

The producer's own list of acknowledged actions is the truth: history must hold each of them, and an
offline recount of the windows must find each trigger, with one content however often it was sent.
"""

import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import msgspec
import pytest
import redis

from schemas import topics
from schemas.actions import ActionType, UserAction, Watermark
from schemas.behaviour import Behaviour
from schemas.codec import RECORDS, Decoder
from schemas.instructions import InstructionTrigger
from schemas.topics import topic_table
from streams.connections import KafkaConfig, RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.producer import RecordProducer
from streams.redis_epoch import begin_epoch
from streams.watermarks import FOREVER_MS
from streams.windows import WindowConfig, window_start_ms
from tests.agents.near_line import (
    PARTITIONS,
    Logs,
    WorkerProcess,
    eventually,
    worker_environment,
)

logger = logging.getLogger(__name__)  # seen with --log-cli-level=INFO

WINDOWS = WindowConfig(window_ms=2_000, grace_ms=1_000)
USERS = 60
SENT = 6_000
STEP_MS = 25  # 150 s of event time: each user goes through 75 windows
JITTER_MS = 400  # less than the grace: no action is late
BURST, PAUSE_S = 60, 0.2
KILLS = 3
CLOSING = "windows closed"  # what the aggregator logs between sending triggers and deleting rows


@dataclass(frozen=True)
class KilledRun:
    """What a run left behind, and when its windows spoke."""

    trigger: str
    logs: Logs
    redis_url: str


def shopping(rng: random.Random, start_ms: int) -> Iterator[UserAction]:
    """Yields actions a little out of order; event ids and each user's event times are unique."""
    for number in range(SENT):
        kind = rng.choice([ActionType.CLICK, ActionType.CLICK, ActionType.CART, ActionType.SEARCH])
        user = f"user-{number % USERS}"
        yield UserAction(
            event_id=f"event-{number}",
            user_id=user,
            action=kind,
            item_id=f"item-{rng.randrange(50)}",
            query="umbrella" if kind is ActionType.SEARCH else None,
            event_time_ms=start_ms + number * STEP_MS + rng.randrange(-JITTER_MS, JITTER_MS),
        )


def send_all(producer: RecordProducer) -> None:
    """Sends in bursts, 5 % twice and 2 % of the clicks to a wrong partition, until all is acked."""
    rng = random.Random(11)
    start_ms = time.time_ns() // 1_000_000 - 600_000
    for number, action in enumerate(shopping(rng, start_ms)):
        wrong = action.action is ActionType.CLICK and rng.random() < 0.02
        partition = rng.randrange(PARTITIONS) if wrong else None
        for _ in range(2 if rng.random() < 0.05 else 1):
            producer.send(topics.ACTIONS, action, action.user_id, partition=partition)
        if number % BURST == 0:
            time.sleep(PAUSE_S)
    producer.flush(30_000)  # raises unless every one was acknowledged


def wait_for_closing(aggregator: WorkerProcess) -> None:
    """Returns right after the aggregator said once more that windows closed."""
    seen = aggregator.log.read_text().count(CLOSING)
    eventually(
        lambda: aggregator.log.read_text().count(CLOSING) > seen,
        60,
        f"windows close; see {aggregator.log}",
        every_s=0.01,
    )


def kill_at_work(router: WorkerProcess, aggregator: WorkerProcess) -> None:
    """Kills the aggregator three times while it closes windows, and the router once meanwhile."""
    rng = random.Random(5)
    for kill in range(KILLS):
        wait_for_closing(aggregator)
        time.sleep(rng.uniform(0, 0.1))
        aggregator.kill_and_restart()
        if kill == 0:
            time.sleep(rng.uniform(0, 1))
            router.kill_and_restart()


@pytest.fixture(scope="module", params=["close", "first"])
def killed_run(
    request: pytest.FixtureRequest,
    redis_server: LocalRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[KilledRun]:
    """Router and aggregator on a broker of their own, killed while actions arrive, then drained."""
    folder = tmp_path_factory.mktemp("killed")
    redis.Redis.from_url(redis_server.url).flushdb()
    begin_epoch(RedisConfig(url=redis_server.url), now_ms=0)
    with LocalKafka(folder / "kafka") as broker:
        broker.ensure_topics(topic_table(PARTITIONS))
        environment = worker_environment(
            *(broker.bootstrap, redis_server.url, folder),
            OXYGENREC_ROUTER__CLOCK="event",
            OXYGENREC_WINDOWS__TRIGGER=request.param,
        )
        router = WorkerProcess("router", environment, folder)
        aggregator = WorkerProcess("window-aggregator", environment, folder)
        logs = Logs(broker.bootstrap)
        try:
            with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
                with ThreadPoolExecutor() as pool:
                    killed = pool.submit(kill_at_work, router, aggregator)
                    send_all(producer)
                    killed.result()
                eventually(
                    lambda: (
                        logs.committed("oxygenrec-router", topics.ACTIONS, broker.bootstrap)
                        == logs.ends(topics.ACTIONS)
                    ),
                    60,
                    f"the router has read all; see {router.log}",
                )
                for partition in range(PARTITIONS):
                    end = Watermark(watermark_ms=FOREVER_MS)
                    producer.send(topics.HIGH_VALUE_ACTIONS, end, None, partition=partition)
            wait_until_quiet(logs)
            yield KilledRun(request.param, logs, redis_server.url)
        finally:
            assert [router.stop(), aggregator.stop()] == [0, 0]
            logs.close()


def wait_until_quiet(logs: Logs) -> None:
    """Returns when every partition's watermark row says for ever."""

    def done() -> bool:
        changelog = logs.read(topics.WINDOW_CHANGELOG)
        marker = f'"watermark_ms":{FOREVER_MS}'.encode()
        return all(any(marker in (m.value() or b"") for m in part) for part in changelog)

    eventually(done, 60, "the aggregator closes all windows")


def acknowledged(logs: Logs) -> dict[str, UserAction]:
    decoder: Decoder[UserAction] = Decoder(RECORDS[topics.ACTIONS])
    messages = [m for part in logs.read(topics.ACTIONS) for m in part]
    actions = [decoder.decode(message.value() or b"") for message in messages]
    return {action.event_id: action for action in actions}


def high_value_as_logged(logs: Logs) -> list[UserAction]:
    """Returns every acknowledged action that is no click, each once, in the order of the log."""
    decoder: Decoder[UserAction | Watermark] = Decoder(RECORDS[topics.HIGH_VALUE_ACTIONS])
    found: dict[str, UserAction] = {}
    for message in (m for part in logs.read(topics.HIGH_VALUE_ACTIONS) for m in part):
        record = decoder.decode(message.value() or b"")
        if isinstance(record, UserAction):
            found.setdefault(record.event_id, record)
    sent = acknowledged(logs).items()
    assert found.keys() == {i for i, action in sent if action.action is not ActionType.CLICK}
    return list(found.values())


def triggers(logs: Logs) -> dict[str, list[InstructionTrigger]]:
    decoder: Decoder[InstructionTrigger] = Decoder(RECORDS[topics.INSTRUCTION_TRIGGERS])
    found: dict[str, list[InstructionTrigger]] = defaultdict(list)
    for part in logs.read(topics.INSTRUCTION_TRIGGERS):
        for message in part:
            trigger = decoder.decode(message.value() or b"")
            found[trigger.trigger_id].append(trigger)
    return found


@pytest.mark.integration
@pytest.mark.timeout(240)
def test_each_window_of_an_offline_recount_triggered_once(killed_run: KilledRun) -> None:
    logs = killed_run.logs
    expected: dict[str, list[UserAction]] = defaultdict(list)
    for action in high_value_as_logged(logs):
        start = window_start_ms(action.user_id, action.event_time_ms, WINDOWS)
        expected[f"{action.user_id}:{start}"].append(action)
    found = triggers(logs)
    assert found.keys() == expected.keys()
    for trigger_id, sent in found.items():
        by_time = sorted(expected[trigger_id], key=lambda a: a.event_time_ms)
        wanted = by_time if killed_run.trigger == "close" else expected[trigger_id][:1]
        assert all(trigger == sent[0] for trigger in sent), "a repeat with another content"
        assert sent[0].actions == wanted
    logger.info("windows by times sent: %s", Counter(len(sent) for sent in found.values()))


@pytest.mark.integration
def test_history_holds_every_acknowledged_action_once(killed_run: KilledRun) -> None:
    sent = acknowledged(killed_run.logs)
    assert len(sent) == SENT
    client = redis.Redis.from_url(killed_run.redis_url)
    decoder = msgspec.json.Decoder(Behaviour)
    held = [
        decoder.decode(cast(bytes, member)).event_id
        for number in range(USERS)
        for member in client.zrange(f"history:user-{number}", 0, -1)
    ]
    assert sorted(held) == sorted(sent)  # no event twice


@pytest.mark.integration
def test_nothing_of_it_is_a_dead_letter(killed_run: KilledRun) -> None:
    assert killed_run.logs.ends(topics.DEAD_LETTERS, partitions=1) == [0]
