"""How many high-value events a second does one core of the window aggregator take?

A real Kafka (one node, 4 partitions) holds `high-value-actions` before the aggregator starts, as
the router writes it: actions, and after every 80 of them (4 % of a batch of 2,000) a watermark in
each partition. Users buy once a window, or five times. Counted from the aggregator's first commit
to the last; Kafka shares this machine. --quick: 40,000 events, not 120,000.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from confluent_kafka import Producer

from benchmarks.near_line_stack import PARTITIONS, Progress, cpu_s, servers, until, workers
from benchmarks.report import arguments, finish, show
from schemas import topics
from schemas.actions import ActionType, UserAction, Watermark
from schemas.codec import encode
from streams.partitioner import partition_of
from streams.watermarks import FOREVER_MS

NAME = "window-aggregator"
EVENTS = 120_000
STEP_MS = 10  # 100 high-value events a second of event time
BATCH = 80
ROWS = (1, 5)  # events in each window
LIMIT_S = 300.0


def main() -> None:
    """Prints events a second, by the clock and by CPU time."""
    given = arguments(__doc__)
    started = time.monotonic()
    count = EVENTS // 3 if given.quick else EVENTS
    results = []
    for in_a_row in ROWS:
        with TemporaryDirectory() as folder:
            results.append(_measure(Path(folder), count, in_a_row))
    rows = [[figure, *(one[figure] for one in results)] for figure in results[0]]
    show("window aggregator", ["figure", *(f"{n} an opened window" for n in ROWS)], rows)
    finish("window_aggregator", {"runs": results}, started=started, path=given.json)


def _measure(folder: Path, count: int, in_a_row: int) -> dict[str, Any]:
    with servers(folder) as at:
        _fill(at.bootstrap, count, in_a_row)
        progress = Progress(at.bootstrap)
        pids = {"Kafka": at.pids["Kafka"]}
        with workers(at, {}, names=(NAME,)) as running:
            pids |= running
            until(lambda: progress.committed(NAME) > 0, 60, "a first commit")
            first, begun, before = progress.committed(NAME), time.monotonic(), cpu_s(pids)
            until(lambda: progress.committed(NAME) >= progress.end(NAME), LIMIT_S, "all applied")
            seconds, after = time.monotonic() - begun, cpu_s(pids)
        share = 1 - first / progress.end(NAME)
        windows = progress.end("instruction-writer")
        progress.close()
    events = round(count * share)
    used = {name: after[name] - before[name] for name in after}
    return {
        "events": events,
        "windows": windows,
        "seconds": round(seconds, 1),
        "events/s": round(events / seconds),
        "events per aggregator CPU s": round(events / used[NAME]),
        **{f"CPU share {name}": round(spent / seconds, 2) for name, spent in used.items()},
    }


def _fill(bootstrap: str, count: int, in_a_row: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20})
    newest_ms = 0
    for number, action in enumerate(_actions(count, in_a_row), 1):
        partition = partition_of(action.user_id.encode(), PARTITIONS)
        producer.produce(topics.HIGH_VALUE_ACTIONS, encode(action), partition=partition)
        newest_ms = action.event_time_ms
        if number % BATCH == 0:
            _announce(producer, newest_ms)
    _announce(producer, FOREVER_MS)
    if left := producer.flush(60):
        raise SystemExit(f"Kafka did not take {left} records")


def _announce(producer: Producer, watermark_ms: int) -> None:
    value = encode(Watermark(watermark_ms=watermark_ms))
    for partition in range(PARTITIONS):
        producer.produce(topics.HIGH_VALUE_ACTIONS, value, partition=partition)
    producer.poll(0)


def _actions(count: int, in_a_row: int) -> Iterator[UserAction]:
    rng = random.Random(0)
    begin_ms = time.time_ns() // 1_000_000 - count * STEP_MS
    for number in range(count):
        yield UserAction(
            event_id=f"event-{number:09d}",
            user_id=f"user-{number // in_a_row:06d}",
            action=ActionType.CART,
            item_id=f"item-{rng.randrange(10_000):05d}",
            event_time_ms=begin_ms + number * STEP_MS,
        )


if __name__ == "__main__":
    main()
