"""`oxygenrec status` on a real broker: it names what stands in a window's way, and then nothing."""

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agents.cli import app
from agents.exit_codes import ExitCode
from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.topics import topic_table
from streams.connections import KafkaConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.partitioner import partition_of
from streams.producer import RecordProducer
from tests.agents.near_line import PARTITIONS, WorkerProcess, eventually, worker_environment

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


def status(environment: dict[str, str]) -> Result:
    return CliRunner().invoke(app, ["status", "--user", "ann"], env=environment)


def test_status_says_why_a_window_stays_open_and_when_it_closes(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    with LocalKafka(tmp_path / "kafka") as broker:
        broker.ensure_topics(topic_table(PARTITIONS))
        environment = worker_environment(broker.bootstrap, redis_server.url, tmp_path / "home")
        action = UserAction(
            event_id="status-1",
            user_id="ann",
            action=ActionType.ORDER,
            item_id="item-0",
            event_time_ms=time.time_ns() // 1_000_000,
        )
        with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
            producer.send(topics.ACTIONS, action, "ann").result(10)
        asked = status(environment)
        assert asked.exit_code == ExitCode.FAILED
        assert "no router (all)" in asked.stdout
        home = partition_of(b"ann", PARTITIONS)
        lines = {line.split()[0]: line for line in asked.stdout.splitlines()}
        assert " 1/0/0 " in lines[str(home)]
        assert "stays open: no router" in asked.stdout
        names = ("router", "window-aggregator")
        workers = [WorkerProcess(name, environment, tmp_path) for name in names]
        try:
            eventually(lambda: "no writer (all)" in status(environment).stdout, 40, "closings")
            asked = status(environment)
        finally:
            for worker in workers:
                worker.stop()
    lines = {line.split()[0]: line for line in asked.stdout.splitlines()}
    assert " 0/" in lines[str(home)]
    assert " by " in lines[str(home)]
    assert lines[str((home + 1) % PARTITIONS)].split()[1] == "none"  # no event there, and it closes
    assert len(asked.stdout.splitlines()) <= 24
