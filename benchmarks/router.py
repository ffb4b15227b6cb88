"""How many actions a second does the router take, Redis writes and watermarks included?

A real Kafka (one node, 4 partitions) holds the log before the router starts: 4 % of the actions are
high-value, 50,000 users, 10,000 items. Counted from the first commit to the last; every process'
CPU time is read over the same span. All share this machine. --quick: 100,000 actions, not 600,000.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from agents.router import GROUP
from benchmarks.report import arguments, finish, show
from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.codec import encode
from schemas.topics import topic_table
from streams.connections import RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.redis_epoch import begin_epoch

ACTIONS = 600_000
QUICK_ACTIONS = 100_000
PARTITIONS = 4
USERS, ITEMS = 50_000, 10_000
HIGH_VALUE_SHARE = 0.04
STEP_MS = 1  # event time between two actions: 10 minutes of a shop with 1,000 actions a second
POLL_S = 0.05
LIMIT_S = 180.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prints actions a second, by the clock and by the CPU time of each process."""
    given = arguments(__doc__)
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        results = _measure(Path(folder), QUICK_ACTIONS if given.quick else ACTIONS)
    finish("router", results, started=started, path=given.json)


def _measure(folder: Path, count: int) -> dict[str, Any]:
    with LocalKafka(folder / "kafka") as kafka, LocalRedis(folder / "redis") as redis_server:
        kafka.ensure_topics(topic_table(PARTITIONS))
        begin_epoch(RedisConfig(url=redis_server.url), now_ms=0)
        _fill(kafka.bootstrap, count)
        router = _start_router(kafka.bootstrap, redis_server.url, folder)
        try:
            processes = {
                "router": router.pid,
                "Redis": redis_server.process.pid,
                "Kafka": kafka.processes[0].pid,
            }
            return _watch(kafka.bootstrap, processes, count)
        finally:
            router.terminate()
            router.wait(30)


def _actions(count: int) -> Iterator[UserAction]:
    rng = random.Random(0)
    begin_ms = time.time_ns() // 1_000_000 - count * STEP_MS
    for number in range(count):
        kind = ActionType.CART if rng.random() < HIGH_VALUE_SHARE else ActionType.CLICK
        yield UserAction(
            event_id=f"event-{number:09d}",
            user_id=f"user-{rng.randrange(USERS):05d}",
            action=kind,
            item_id=f"item-{rng.randrange(ITEMS):05d}",
            event_time_ms=begin_ms + number * STEP_MS,
        )


def _fill(bootstrap: str, count: int) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for action in _actions(count):
        producer.produce(topics.ACTIONS, encode(action), action.user_id.encode())
    if left := producer.flush(60):
        raise SystemExit(f"Kafka did not take {left} of {count} actions")


def _start_router(bootstrap: str, redis_url: str, folder: Path) -> subprocess.Popen[bytes]:
    settings = {
        "OXYGENREC_KAFKA__BOOTSTRAP": bootstrap,
        "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
        "OXYGENREC_REDIS__URL": redis_url,
        "OXYGENREC_ROUTER__CLOCK": "event",
    }
    with (folder / "router.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "worker", "router"],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
        )


def _watch(bootstrap: str, processes: dict[str, int], count: int) -> dict[str, Any]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP})
    limit = time.monotonic() + LIMIT_S
    began: tuple[float, int, dict[str, float]] | None = None
    while True:
        routed = _committed(consumer)
        now, cpu_s = time.monotonic(), {name: _cpu_s(pid) for name, pid in processes.items()}
        if began is None and routed:
            began = now, routed, cpu_s
        if routed >= count:
            break
        if now > limit:
            raise SystemExit(f"the router committed {routed} of {count} in {LIMIT_S:g} s")
        time.sleep(POLL_S)
    consumer.close()
    if began is None or began[1] >= count:
        raise SystemExit("the log was too short: everything was in the first commit")
    return _report(routed - began[1], now - began[0], began[2], cpu_s)


def _committed(consumer: Consumer) -> int:
    places = [TopicPartition(topics.ACTIONS, p) for p in range(PARTITIONS)]
    try:
        return sum(max(0, place.offset) for place in consumer.committed(places, timeout=10))
    except KafkaException:  # the group's coordinator is not there yet
        return 0


def _report(
    routed: int, seconds: float, before_s: dict[str, float], after_s: dict[str, float]
) -> dict[str, Any]:
    used_s = {name: after_s[name] - before_s[name] for name in after_s}
    results: dict[str, Any] = {
        "actions": routed,
        "seconds": round(seconds, 2),
        "actions_per_s": round(routed / seconds),
    }
    for name, cpu_s in used_s.items():
        results[f"{name.lower()}_cpu_share"] = round(cpu_s / seconds, 2)
        results[f"actions_per_{name.lower()}_cpu_s"] = round(routed / max(cpu_s, 0.01))
    show("router, Redis writes included", ["figure", "value"], list(map(list, results.items())))
    return results


def _cpu_s(pid: int) -> float:
    """Returns the CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


if __name__ == "__main__":
    main()
