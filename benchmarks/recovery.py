"""How fast is a lost past worked off, and are its windows the right ones?

RetailRocket's 4.5 months (`retailrocket_mb/events.parquet`) lie in `actions`; router and window
aggregator start on them with event time as the clock and windows of 5 minutes, not staggered. The
triggers are compared with an offline recount of the table, for two choices of what is high-value.
Seconds count from the start of the processes. --quick: only the smaller choice.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from agents.router import GROUP
from benchmarks.report import arguments, finish, show
from schemas import topics
from schemas.actions import ActionType, UserAction, Watermark
from schemas.codec import encode
from schemas.instructions import InstructionTrigger
from schemas.topics import topic_table
from streams.connections import RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.redis_epoch import begin_epoch
from streams.watermarks import FOREVER_MS

DATA = Path(os.environ.get("OXYGENREC_DATA", "../shared/data")) / "retailrocket_mb"
PARTITIONS = 4
WINDOW_S = 300
LIMIT_S = 400.0
SILENCE_S = 2.0  # the aggregator closes all windows within milliseconds of each other
ACTIONS = {"view": ActionType.VIEW, "cart": ActionType.CART, "buy": ActionType.ORDER}
CHOICES = {"cart, buy": ("cart", "buy"), "view, cart, buy": ("view", "cart", "buy")}

_trigger = msgspec.json.Decoder(InstructionTrigger)


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the table that has a time."""

    user: int
    item: int
    kind: str
    ts: int


def main() -> None:
    """Prints, for each choice, windows found and wanted, repeats, and seconds."""
    given = arguments(__doc__)
    started = time.monotonic()
    events = _events()
    choices = list(CHOICES)[:1] if given.quick else list(CHOICES)
    rows = [{"high_value": choice, **_replay(events, CHOICES[choice])} for choice in choices]
    show(
        f"{len(events):,} events of 4.5 months, replayed",
        list(rows[0]),
        [list(row.values()) for row in rows],
    )
    finish("recovery", {"replay": rows}, started=started, path=given.json)


def _events() -> list[Event]:
    path = DATA / "events.parquet"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: set OXYGENREC_DATA to the folder above it")
    rows = pq.read_table(path, columns=["user", "item", "event", "ts"]).to_pylist()
    events = [Event(row["user"], row["item"], row["event"], row["ts"]) for row in rows]
    return sorted((event for event in events if event.ts >= 0), key=lambda event: event.ts)


def _recount(events: list[Event], kinds: tuple[str, ...]) -> set[str]:
    windows = {(e.user, e.ts // WINDOW_S * WINDOW_S) for e in events if e.kind in kinds}
    return {f"{user}:{start * 1000}" for user, start in windows}


def _replay(events: list[Event], kinds: tuple[str, ...]) -> dict[str, Any]:
    with TemporaryDirectory() as name, LocalKafka(Path(name) / "kafka") as kafka:
        folder = Path(name)
        kafka.ensure_topics(topic_table(PARTITIONS))
        with LocalRedis(folder / "redis") as redis_server:
            begin_epoch(RedisConfig(url=redis_server.url), now_ms=0)
            producer = Producer(
                {"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random"}
            )
            _fill(producer, events)
            began = time.monotonic()
            with _workers(kafka.bootstrap, redis_server.url, folder, kinds):
                _until_routed(kafka.bootstrap, len(events))
                for partition in range(PARTITIONS):
                    end = encode(Watermark(watermark_ms=FOREVER_MS))
                    producer.produce(topics.HIGH_VALUE_ACTIONS, end, partition=partition)
                producer.flush(10)
                wanted = _recount(events, kinds)
                found, last = _triggers(kafka.bootstrap, len(wanted))
    return {
        "windows": len(set(found)),
        "wanted": len(wanted),
        "missing": len(wanted - set(found)),
        "surplus": len(set(found) - wanted),
        "sent_twice": len(found) - len(set(found)),
        "seconds": round(last - began, 1),
    }


def _fill(producer: Producer, events: list[Event]) -> None:
    for number, event in enumerate(events):
        action = UserAction(
            event_id=str(number),
            user_id=str(event.user),
            action=ACTIONS[event.kind],
            item_id=str(event.item),
            event_time_ms=event.ts * 1000,
        )
        producer.produce(topics.ACTIONS, encode(action), action.user_id.encode())
        if number % 10_000 == 0:
            producer.flush(10)
    if left := producer.flush(30):
        raise SystemExit(f"Kafka did not take {left} of {len(events)} actions")


@contextmanager
def _workers(
    bootstrap: str, redis_url: str, folder: Path, kinds: tuple[str, ...]
) -> Iterator[None]:
    settings = {
        "OXYGENREC_KAFKA__BOOTSTRAP": bootstrap,
        "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
        "OXYGENREC_REDIS__URL": redis_url,
        "OXYGENREC_ROUTER__CLOCK": "event",
        "OXYGENREC_ROUTER__HIGH_VALUE": ",".join(ACTIONS[kind] for kind in kinds),
        "OXYGENREC_WINDOWS__WINDOW_MS": str(WINDOW_S * 1000),
        "OXYGENREC_WINDOWS__STAGGER": "false",
    }
    running = []
    try:
        for name in ("router", "window-aggregator"):
            with (folder / f"{name}.log").open("wb") as log:
                command = [sys.executable, "-m", "agents.cli", "worker", name]
                environment = {**os.environ, **settings}
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(30)


def _until_routed(bootstrap: str, count: int) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP})
    places = [TopicPartition(topics.ACTIONS, partition) for partition in range(PARTITIONS)]
    limit, routed = time.monotonic() + LIMIT_S, 0
    while routed < count:
        if time.monotonic() > limit:
            raise SystemExit(f"the router committed {routed} of {count} in {LIMIT_S:g} s")
        time.sleep(0.1)
        try:
            routed = sum(max(0, p.offset) for p in consumer.committed(places, timeout=10))
        except KafkaException:  # the group's coordinator is not there yet
            continue
    consumer.close()


def _triggers(bootstrap: str, wanted: int) -> tuple[list[str], float]:
    """Returns the ids of all triggers, and when the last came: reads until nothing follows."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "count", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topics.INSTRUCTION_TRIGGERS, p, 0) for p in range(PARTITIONS)])
    limit, found, last = time.monotonic() + LIMIT_S, list[str](), time.monotonic()
    while time.monotonic() < limit:
        messages = [m for m in consumer.consume(1_000, SILENCE_S) if not m.error()]
        found += [_trigger.decode(m.value() or b"").trigger_id for m in messages]
        if messages:
            last = time.monotonic()
        elif len(set(found)) >= wanted:
            break
    consumer.close()
    return found, last


if __name__ == "__main__":
    main()
