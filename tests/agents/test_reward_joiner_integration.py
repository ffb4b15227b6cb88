"""The reward joiner on a real Kafka: every impression joined once or again the same, none lost."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from schemas import topics
from schemas.actions import UserAction
from schemas.codec import Decoder
from schemas.rewards import RewardEvent
from schemas.topics import topic_table
from streams.connections import KafkaConfig
from streams.local.kafka import LocalKafka
from streams.log_reader import LogReader
from streams.producer import RecordProducer
from tests.agents.test_reward_join import did, impression

pytestmark = pytest.mark.integration

PARTITIONS = 4
IMPRESSIONS = 40


def user_of(number: int) -> str:
    return f"joiner-{number % 10}"


def action(kind: str, item_id: str, number: int) -> UserAction:
    plain = did(kind, item_id, f"joiner-r{number}")
    return UserAction(
        event_id=f"{plain.event_id}-{number}",
        user_id=user_of(number),
        action=plain.action,
        event_time_ms=time.time_ns() // 1_000_000,
        item_id=item_id,
        request_id=f"joiner-r{number}",
    )


def produce(kafka: KafkaConfig, numbers: range) -> None:
    with RecordProducer(kafka, "test") as producer:
        for number in numbers:
            user = user_of(number)
            shown = impression(f"joiner-r{number}", user)
            producer.send(topics.IMPRESSIONS, shown, user).result(10)
            producer.send(topics.ACTIONS, action("expose", "a", number), user)
            producer.send(topics.ACTIONS, action("click", "b", number), user)


@contextmanager
def worker(kafka: KafkaConfig) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the real worker process; it ends with SIGKILL if it has not ended before."""
    environment = {
        **os.environ,
        "OXYGENREC_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
        "OXYGENREC_REWARDS__ATTRIBUTION_MS": "2000",
        "OXYGENREC_REWARDS__LIVE_LAG_MS": "500",
    }
    command = [sys.executable, "-m", "agents.cli", "worker", "reward-joiner"]
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def rewards(kafka: KafkaConfig) -> list[RewardEvent]:
    decoder: Decoder[RewardEvent] = Decoder(RewardEvent)
    async with LogReader(kafka, topics.REWARDS) as reader:
        records = await reader.read()
    events = [decoder.decode(record.value or b"") for record in records]
    return [event for event in events if event.request_id.startswith("joiner-")]


async def wait_for(kafka: KafkaConfig, count: int) -> list[RewardEvent]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        events = await rewards(kafka)
        if len({event.request_id for event in events}) >= count:
            return events
        await asyncio.sleep(0.3)
    pytest.fail(f"{len(await rewards(kafka))} reward events, wanted {count}")


async def test_kill_minus_9_loses_no_reward_and_a_repeat_is_equal(kafka: LocalKafka) -> None:
    kafka.ensure_topics(topic_table(PARTITIONS))
    config = KafkaConfig(bootstrap=kafka.bootstrap, partitions=PARTITIONS)
    with worker(config) as first:
        await asyncio.to_thread(produce, config, range(IMPRESSIONS // 2))
        await wait_for(config, 1)
        first.send_signal(signal.SIGKILL)
    await asyncio.to_thread(produce, config, range(IMPRESSIONS // 2, IMPRESSIONS))
    with worker(config) as second:
        events = await wait_for(config, IMPRESSIONS)
        second.terminate()
        assert await asyncio.to_thread(second.wait, 20) == 0
    by_request: dict[str, RewardEvent] = {}
    for event in events:
        assert by_request.setdefault(event.request_id, event) == event
        assert [(one.item_id, one.outcome) for one in event.outcomes] == [("b", 0.4)]
        assert event.examined == [0, 1]
    assert len(by_request) == IMPRESSIONS
