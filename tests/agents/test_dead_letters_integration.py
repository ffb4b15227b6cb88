"""Poison in, a dead letter, a replay with a fix, accepted: on real Kafka, Redis and a router."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from agents.exit_codes import ExitCode
from schemas import topics
from schemas.topics import topic_table
from streams.connections import KafkaConfig
from streams.dead_letter_replay import REPLAY_HEADER
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.partitioner import partition_of
from streams.producer import RecordProducer
from streams.redis_keys import history_key
from tests.agents.near_line import (
    PARTITIONS,
    Logs,
    WorkerProcess,
    eventually,
    worker_environment,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

GOOD: dict[str, Any] = {
    "schema": "user_action/1",
    "action": "click",
    "item_id": "i",
    "event_time_ms": 1_767_225_600_000,
}
POISON: dict[str, dict[str, Any]] = {
    "typed": {"price": "9.5"},
    "moon-1": {"scenario": "moon"},
    "moon-2": {"scenario": "moon"},
    "future": {"event_time_ms": 4_000_000_000_000},
}


@dataclass
class Desk:
    """The command line against one broker, and what it is checked by."""

    environment: dict[str, str]
    logs: Logs
    redis: redis.Redis

    def run(self, *arguments: str, code: int = ExitCode.OK) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "agents.cli", "dead-letters", *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout + done.stderr

    def letters(self, *options: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("list", "--json", *options).splitlines()]

    def offset_of(self, reason: str) -> str:
        [letter] = self.letters("--reason", reason)
        return str(letter["offset"])

    def remembers(self, user: str, event: str) -> bool:
        members = self.redis.zrange(history_key(user), 0, -1)
        return f'"event_id":"{event}"' in str(members)


def sick(event: str, changes: dict[str, Any]) -> bytes:
    user = f"user of {event}"
    return json.dumps(GOOD | {"event_id": event, "user_id": user} | changes).encode()


@pytest.fixture(scope="module")
def desk(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("dead-letters")
    with LocalKafka(folder / "kafka") as kafka:
        kafka.ensure_topics(topic_table(PARTITIONS))
        config = KafkaConfig(bootstrap=kafka.bootstrap, partitions=PARTITIONS)
        environment = worker_environment(kafka.bootstrap, redis_server.url, folder)
        router = WorkerProcess("router", environment, folder)
        with RecordProducer(config, "poison") as producer:
            for event, changes in POISON.items():
                producer.send(topics.ACTIONS, sick(event, changes), f"user of {event}")
            producer.send(topics.ACTIONS, b"{", "nobody")
        logs = Logs(kafka.bootstrap)
        client = redis.Redis.from_url(redis_server.url)
        try:
            dead = len(POISON) + 1
            eventually(
                lambda: logs.ends(topics.DEAD_LETTERS, 1) == [dead], 40, f"{dead} dead letters"
            )
            yield Desk(environment, logs, client)
        finally:
            router.stop()
            logs.close()
            client.close()


def test_letters_are_listed_by_reason_topic_time_and_number(desk: Desk) -> None:
    assert len(desk.letters()) == len(POISON) + 1
    assert len(desk.letters("--reason", "unknown_scenario", "--topic", "actions")) == 2
    assert desk.letters("--topic", "catalog") == []
    assert desk.letters("--until", "1h") == []
    assert len(desk.letters("--since", "1h", "--limit", "2")) == 2
    assert "field price: found str, wanted float | null" in desk.run("list")


def test_a_letter_without_a_fix_is_refused_again_and_nothing_is_sent(desk: Desk) -> None:
    before = desk.logs.ends(topics.ACTIONS)
    said = desk.run("replay", desk.offset_of("wrong_type"), code=ExitCode.FAILED)
    assert "refused: field price: found str, wanted float | null; --set FIELD=VALUE" in said
    broken = desk.offset_of("malformed_json")
    assert "refused" in desk.run("replay", broken, "--set", "price=1", code=ExitCode.FAILED)
    assert desk.logs.ends(topics.ACTIONS) == before


def test_a_dry_run_says_what_would_go_where_and_sends_nothing(desk: Desk) -> None:
    before = desk.logs.ends(topics.ACTIONS), desk.logs.ends(topics.DEAD_LETTERS, 1)
    offset = desk.offset_of("wrong_type")
    said = desk.run("replay", offset, "--set", "price=9.5", "--dry-run")
    assert f"{offset} would go to actions, key user of typed" in said
    assert "1 would be sent, 0 refused again" in said
    assert (desk.logs.ends(topics.ACTIONS), desk.logs.ends(topics.DEAD_LETTERS, 1)) == before


def test_a_mended_letter_goes_to_its_topic_and_key_once_and_is_accepted(desk: Desk) -> None:
    offset, user = desk.offset_of("wrong_type"), "user of typed"
    assert not desk.remembers(user, "typed")
    said = desk.run("replay", offset, "--set", "price=9.5")
    partition = partition_of(user.encode(), PARTITIONS)
    assert f"{offset} sent to actions[{partition}]@" in said
    message = desk.logs.read(topics.ACTIONS)[partition][-1]
    assert (message.key(), json.loads(message.value() or b"")["price"]) == (user.encode(), 9.5)
    headers = dict(message.headers() or ())
    assert headers[REPLAY_HEADER] == f"dead-letters[0]@{offset}".encode()
    assert headers["ce_id"] == b"typed"
    eventually(lambda: desk.remembers(user, "typed"), 20, "the action reaches history")
    ends = desk.logs.ends(topics.ACTIONS)
    assert "0 sent, 0 refused again, 1 passed over" in desk.run("replay", offset)
    assert desk.logs.ends(topics.ACTIONS) == ends
    assert "price=9.5" in desk.run("show", offset)


def test_letters_of_a_reason_are_replayed_together_and_none_twice(desk: Desk) -> None:
    chosen = ("replay", "--reason", "unknown_scenario", "--set", "scenario=home")
    assert "1 sent, 0 refused again, 0 passed over" in desk.run(*chosen, "--limit", "1")
    assert "1 sent, 0 refused again, 1 passed over" in desk.run(*chosen)
    assert "0 sent, 0 refused again, 2 passed over" in desk.run(*chosen)
    for event in ("moon-1", "moon-2"):
        eventually(lambda e=event: desk.remembers(f"user of {e}", e), 20, f"{event} accepted")  # type: ignore[misc]


def test_a_number_without_a_letter_and_a_replay_of_everything_are_errors(desk: Desk) -> None:
    assert "no letter at 9999" in desk.run("show", "9999", code=ExitCode.FAILED)
    assert "no letter at 9999" in desk.run("replay", "9999", code=ExitCode.FAILED)
    assert "wanted offsets, or one of --reason" in desk.run("replay", code=ExitCode.USAGE)
