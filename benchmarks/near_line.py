"""How long from a closed window to its instruction, and how fast is the whole near-line path?

Real Kafka (one node, 4 partitions), Redis, router, window aggregator and instruction writer (local
reasoner), one process each, with this one on the same machine.

1. *Delays* at a bounded rate with live clocks: a buyer buys once, or five times in a row; counted
   is the first trigger of each. Its append is Kafka's time, "visible" is Redis' own notification of
   the write. What waits by design (the rest of the window, grace, the watermark's distance) is
   shown apart.
2. *Throughput*: the log is full before the workers start, event time is the clock. Counted from the
   first history in Redis to the last instruction.

--quick: one rate, a fifth of the log.
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.near_line_stack import (
    PARTITIONS,
    Progress,
    Servers,
    cpu_s,
    first_history,
    servers,
    until,
    workers,
)
from benchmarks.report import arguments, finish, show
from schemas import topics
from schemas.actions import ActionType, UserAction, Watermark
from schemas.codec import encode
from schemas.instructions import InstructionTrigger
from streams.watermarks import FOREVER_MS

USERS = 50_000
HIGH_VALUE_EVERY = 25  # 4 %
SECONDS = 30
TICK_S = 0.02
WINDOW_MS, GRACE_MS, LIVE_LAG_MS = 10_000, 2_000, 2_000
LOG = 400_000
STEP_MS = 2  # 500 actions a second of event time: 13 minutes, windows of 5
LIMIT_S = 200.0


@dataclass(frozen=True, slots=True)
class Load:
    """`actions` a second, one in `high_value_every` of high value, `in_a_row` by the same buyer."""

    actions: int
    high_value_every: int = HIGH_VALUE_EVERY
    in_a_row: int = 1


LOADS = (Load(1_250), Load(5_000), Load(10_000), Load(10_000, high_value_every=5, in_a_row=5))

_trigger = msgspec.json.Decoder(InstructionTrigger)


def main() -> None:
    """Prints the delays at each rate, and the throughput."""
    given = arguments(__doc__)
    started = time.monotonic()
    results: dict[str, Any] = {"delays": []}
    for load in LOADS[:1] if given.quick else LOADS:
        with TemporaryDirectory() as name, servers(Path(name)) as at:
            results["delays"].append(_delays(at, load))
    columns = list(results["delays"][0])
    rows = [[str(row[column]) for row in results["delays"]] for column in columns]
    show(
        f"delays in ms (windows {WINDOW_MS / 1_000:g} s, grace {GRACE_MS / 1_000:g} s)",
        ["figure", *(f"run {number}" for number in range(1, len(rows[0]) + 1))],
        [[column, *row] for column, row in zip(columns, rows, strict=True)],
    )
    with TemporaryDirectory() as name, servers(Path(name)) as at:
        results["throughput"] = _throughput(at, LOG // 5 if given.quick else LOG)
    show("whole path", ["figure", "value"], list(map(list, results["throughput"].items())))
    finish("near_line", results, started=started, path=given.json)


def _delays(at: Servers, load: Load) -> dict[str, Any]:
    settings = {
        "OXYGENREC_WINDOWS__WINDOW_MS": str(WINDOW_MS),
        "OXYGENREC_WINDOWS__GRACE_MS": str(GRACE_MS),
        "OXYGENREC_ROUTER__LIVE_LAG_MS": str(LIVE_LAG_MS),
    }
    progress = Progress(at.bootstrap)
    with _watched(at.redis_url) as visible_ms, workers(at, settings) as pids:
        until(lambda: progress.end("window-aggregator") > PARTITIONS, 60, "watermarks")
        before, begun = cpu_s({**at.pids, **pids}), time.monotonic()
        bought_ms, high_value = _act(at, load)
        seconds, after = time.monotonic() - begun, cpu_s({**at.pids, **pids})
        until(lambda: len(visible_ms) >= len(bought_ms), LIMIT_S, "every instruction in Redis")
    progress.close()
    return {
        "actions/s": round(load.actions * SECONDS / seconds),
        "high-value/s": round(high_value / seconds),
        "high-value actions a buyer": load.in_a_row,
        "instructions": len(visible_ms),
        **_quantiles(_appended(at.bootstrap), bought_ms, visible_ms),
        **{f"CPU share {name}": round((after[name] - before[name]) / seconds, 2) for name in after},
    }


def _quantiles(
    appended: Mapping[str, tuple[int, int]],
    bought_ms: Mapping[str, int],
    visible_ms: Mapping[str, float],
) -> dict[str, str]:
    """`appended`: of each user the window's end and the trigger's append.

    In *silence*, after the last action, the wall clock closes windows: seconds behind, in bursts.
    """
    users = [user for user in bought_ms if user in appended]
    if len(users) != len(bought_ms) or len(appended) != len(users):
        raise SystemExit(f"{len(appended)} triggers of {len(bought_ms)} buyers")
    last_ms = max(bought_ms.values())
    busy = [user for user in users if appended[user][1] <= last_ms]
    quiet = [user for user in users if appended[user][1] > last_ms]
    parts: dict[str, list[float]] = {
        "action -> window's end": [appended[u][0] - bought_ms[u] for u in users]
    }
    for when, some in (("traffic", busy), ("silence", quiet)):
        parts[f"{when}: window's end -> trigger, less grace"] = [
            appended[u][1] - appended[u][0] - GRACE_MS for u in some
        ]
        parts[f"{when}: trigger -> visible"] = [visible_ms[u] - appended[u][1] for u in some]
    parts["action -> visible, all"] = [visible_ms[u] - bought_ms[u] for u in users]
    found = {}
    for name, delays in parts.items():
        p50, p99, most = np.quantile(np.array(delays, dtype=float), [0.5, 0.99, 1])
        found[f"{name}, p50 / p99 / max"] = f"{p50:,.0f} / {p99:,.0f} / {most:,.0f}"
    return found


@contextmanager
def _watched(url: str) -> Iterator[dict[str, float]]:
    """Gives when each user's instruction was first written, as Redis tells it, in ms."""
    client = redis.Redis.from_url(url)
    client.config_set("notify-keyspace-events", "Kh")
    told = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    told.psubscribe("__keyspace@0__:instruction:1:*")
    found: dict[str, float] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            message = told.get_message(timeout=0.1)
            if message is not None:
                found.setdefault(message["channel"].decode().rpartition(":")[2], _now_ms())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join(5)
        told.close()
        client.close()


def _act(at: Servers, load: Load) -> tuple[dict[str, int], int]:
    """Sends a load; returns when each buyer bought first, and how often all of them did."""
    producer = _producer(at.bootstrap)
    rng, bought, high_value, number = random.Random(0), dict[str, int](), 0, 0
    count = load.actions * SECONDS
    begun = time.monotonic()
    while number < count:
        due = min(count, int((time.monotonic() - begun) * load.actions))
        while number < due:
            buyer = None
            if number % load.high_value_every == 0:
                buyer = high_value // load.in_a_row
                high_value += 1
            action = _action(at, rng, number, int(_now_ms()), buyer)
            if buyer is not None:
                bought.setdefault(action.user_id, action.event_time_ms)
            producer.produce(topics.ACTIONS, encode(action), action.user_id.encode())
            number += 1
        producer.poll(0)
        time.sleep(TICK_S)
    producer.flush(30)
    return bought, high_value


def _action(
    at: Servers, rng: random.Random, number: int, at_ms: int, buyer: int | None
) -> UserAction:
    """Returns the purchase of a buyer, or anybody's click."""
    user = rng.randrange(USERS) if buyer is None else buyer
    return UserAction(
        event_id=f"event-{number:09d}",
        user_id=f"user-{user:05d}",
        action=ActionType.CLICK if buyer is None else ActionType.CART,
        item_id=rng.choice(at.items).item_id,
        event_time_ms=at_ms,
    )


def _appended(bootstrap: str) -> dict[str, tuple[int, int]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "near-line-benchmark"})
    consumer.assign([TopicPartition(topics.INSTRUCTION_TRIGGERS, p, 0) for p in range(PARTITIONS)])
    found: dict[str, tuple[int, int]] = {}
    while messages := consumer.consume(1_000, 2.0):
        for message in messages:
            trigger = _trigger.decode(message.value() or b"")
            told = (trigger.window_end_ms, message.timestamp()[1])
            found[trigger.user_id] = min(told, found.get(trigger.user_id, told))
    consumer.close()
    return found


def _throughput(at: Servers, count: int) -> dict[str, Any]:
    producer, rng = _producer(at.bootstrap), random.Random(0)
    begin_ms = int(_now_ms()) - count * STEP_MS
    for number in range(count):
        buyer = rng.randrange(USERS) if number % HIGH_VALUE_EVERY == 0 else None
        action = _action(at, rng, number, begin_ms + number * STEP_MS, buyer)
        producer.produce(topics.ACTIONS, encode(action), action.user_id.encode())
    if left := producer.flush(60):
        raise SystemExit(f"Kafka did not take {left} of {count} actions")
    progress = Progress(at.bootstrap)
    settings = {"OXYGENREC_ROUTER__CLOCK": "event"}
    with first_history(at) as routing, workers(at, settings) as pids:
        begun = until(routing, 60, "first history")
        before = cpu_s({**at.pids, **pids})
        routed = until(lambda: progress.committed("router") >= count, LIMIT_S, "all routed")
        for partition in range(PARTITIONS):
            end = encode(Watermark(watermark_ms=FOREVER_MS))
            producer.produce(topics.HIGH_VALUE_ACTIONS, end, partition=partition)
        producer.flush(10)
        _until_finished(progress, "window-aggregator")
        _until_finished(progress, "instruction-writer")
        done, after = time.monotonic(), cpu_s({**at.pids, **pids})
    used = {name: after[name] - before[name] for name in after}
    windows = progress.end("instruction-writer")
    progress.close()
    return {
        "actions": count,
        "high-value actions": count // HIGH_VALUE_EVERY,
        "windows": windows,
        "seconds": round(done - begun, 1),
        "actions/s": round(count / (done - begun)),
        "seconds until all routed": round(routed - begun, 1),
        "actions per router CPU s": round(count / used["router"]),
        "high-value per aggregator CPU s": round(
            count / HIGH_VALUE_EVERY / used["window-aggregator"]
        ),
        "windows per writer CPU s": round(windows / used["instruction-writer"]),
        **{f"CPU s {name}": round(seconds, 1) for name, seconds in used.items()},
    }


def _until_finished(progress: Progress, worker: str) -> None:
    until(lambda: progress.committed(worker) >= progress.end(worker), LIMIT_S, f"{worker} done")


def _producer(bootstrap: str) -> Producer:
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )


def _now_ms() -> float:
    return time.time_ns() / 1e6


if __name__ == "__main__":
    main()
