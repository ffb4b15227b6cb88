"""Does memory stay flat, and is there state for open windows only?

Real Kafka and Redis; router, window aggregator, instruction writer and reward joiner, one process
each, at a steady 2,000 actions/s (4 % high-value, windows of 10 s, 400 new users and 20 slates a
second). Each second: every process' resident memory, the open windows, the rows alive in the
window table's changelog, Redis' memory. Exit 1 when one of these does not hold:

- a worker's memory grows by at most `GROWTH_MIB_PER_HOUR` over the last two thirds. What fills up
  by design is full before: the router's remembered event ids (set small here) after 40 s, its
  partitions of the newest 65,536 users after 164 s;
- no more windows are open, and no more rows alive, than can be by the clock;
- when traffic has ended and the last window has closed, no window is open and no row alive but
  each partition's watermark.

Redis grows with its users, by design: what a user takes is told. --quick: one minute, no slopes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.memory_slope import Slope, slope_of
from benchmarks.near_line_stack import (
    PARTITIONS,
    Progress,
    Servers,
    cpu_s,
    rss_mib,
    servers,
    until,
    workers,
)
from benchmarks.report import finish, parser, show
from benchmarks.soak_traffic import Traffic
from schemas import topics
from schemas.codec import encode
from streams.local.ports import LOOPBACK, free_port
from streams.windows import WindowConfig

MINUTES = 10.0
WINDOWS = WindowConfig(window_ms=10_000, grace_ms=2_000)
# A watermark of the wall clock stays 2 s behind and comes each second; 2 s are left for the work.
LATE_MS = 5_000
# A hundred bytes kept for each window, 80 a second, would be 27 MiB an hour; what allocators do by
# themselves in seven minutes stayed below (docs/benchmarks.md).
GROWTH_MIB_PER_HOUR = 24.0
SETTINGS = {
    "OXYGENREC_WINDOWS__WINDOW_MS": str(WINDOWS.window_ms),
    "OXYGENREC_WINDOWS__GRACE_MS": str(WINDOWS.grace_ms),
    "OXYGENREC_ROUTER__REMEMBERED_EVENTS": "20000",  # a partition: full after 40 s
    "OXYGENREC_REWARDS__ATTRIBUTION_MS": "20000",
}
WORKERS = ("router", "window-aggregator", "instruction-writer", "reward-joiner")
TICK_S, SAMPLE_S = 0.02, 1.0
END_S = 60.0  # windows, grace and the watermark take 15


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one second; `could_be_open` is what the clock allows."""

    at_s: float
    rss_mib: Mapping[str, float]
    open_windows: int
    alive_rows: int
    could_be_open: int
    redis_mib: float
    users: int


def main() -> None:
    """Prints slopes, windows and rows; ends with 1 where something grows."""
    asked = parser(__doc__)
    asked.add_argument("--minutes", type=float, default=0.0, help=f"of traffic ({MINUTES:g})")
    given = asked.parse_args()
    started = time.monotonic()
    minutes = given.minutes or (1.0 if given.quick else MINUTES)
    with TemporaryDirectory() as folder, servers(Path(folder)) as at:
        port = free_port()
        with workers(at, SETTINGS, WORKERS, {"window-aggregator": port}) as pids:
            watch = Watch(at, {**pids, **at.pids}, port)
            samples, left, told = _soak(at, watch, minutes * 60)
    slopes = {} if given.quick else _slopes(samples)
    broken = _broken(samples, slopes, left)
    _show(samples, slopes, told)
    sound = "state for open windows only" + ("" if given.quick else ", and memory is flat")
    print(*(broken or [sound]), sep="\n")
    results = {
        **told,
        "slopes": {name: asdict(slope) for name, slope in slopes.items()},
        "broken": broken,
        "samples": [asdict(sample) for sample in samples],
    }
    finish("soak", results, started=started, path=given.json)
    raise SystemExit(bool(broken))


class Watch:
    """Looks at everything from outside."""

    def __init__(self, at: Servers, pids: Mapping[str, int], port: int) -> None:
        self.pids = pids
        self._url = f"http://{LOOPBACK}:{port}/metrics"
        self._redis = redis.Redis.from_url(at.redis_url)
        self._changelog = Consumer({"bootstrap.servers": at.bootstrap, "group.id": "soak"})
        self._changelog.assign(
            [
                TopicPartition(topics.WINDOW_CHANGELOG, partition, 0)
                for partition in range(PARTITIONS)
            ]
        )
        self._alive: set[bytes] = set()

    def sample(self, at_s: float, traffic: Traffic) -> Sample:
        """Returns what is to be seen now."""
        return Sample(
            at_s=at_s,
            rss_mib={name: rss_mib(pid) for name, pid in self.pids.items()},
            open_windows=self.open_windows(),
            alive_rows=self.alive_rows(),
            could_be_open=traffic.open_windows(time.time_ns() // 1_000_000, LATE_MS),
            redis_mib=self._redis.info("memory")["used_memory"] / 2**20,
            users=traffic.users,
        )

    def open_windows(self) -> int:
        """Returns what the aggregator says."""
        lines = httpx.get(self._url, timeout=5).text.splitlines()
        found = [line for line in lines if line.startswith("oxygenrec_open_windows ")]
        return int(float(found[0].split()[1]))

    def alive_rows(self) -> int:
        """Returns how many keys the table's changelog holds, as a restart would find them."""
        while messages := self._changelog.consume(10_000, 0.0):
            for message in messages:
                key = message.key() or b""
                if message.value() is None:
                    self._alive.discard(key)
                else:
                    self._alive.add(key)
        return len(self._alive)

    def close(self) -> None:
        """Closes the connections."""
        self._changelog.close()
        self._redis.close()


def _soak(
    at: Servers, watch: Watch, seconds: float
) -> tuple[list[Sample], Mapping[str, int], dict[str, Any]]:
    """Returns samples, what was left open at the end, and figures of the whole."""
    producer = Producer(
        {"bootstrap.servers": at.bootstrap, "partitioner": "murmur2_random", "linger.ms": 5}
    )
    progress, traffic, samples = Progress(at.bootstrap), Traffic(at.items, WINDOWS), list[Sample]()
    until(lambda: progress.end("window-aggregator") >= PARTITIONS, 60, "watermarks")
    begun, used_before = time.monotonic(), cpu_s(watch.pids)
    while (elapsed_s := time.monotonic() - begun) < seconds:
        for topic, key, record in traffic.due(elapsed_s, time.time_ns() // 1_000_000):
            producer.produce(topic, encode(record), key.encode())
        producer.poll(0)
        if elapsed_s >= len(samples) * SAMPLE_S:
            samples.append(watch.sample(elapsed_s, traffic))
        time.sleep(TICK_S)
    lasted_s, used = time.monotonic() - begun, cpu_s(watch.pids)
    if unsent := producer.flush(30):
        raise SystemExit(f"Kafka did not take {unsent} of {traffic.sent} actions")
    behind = {worker: progress.end(worker) - progress.committed(worker) for worker in WORKERS[:3]}
    left = _left(watch)
    progress.close()
    watch.close()
    shares = {name: round((used[name] - used_before[name]) / lasted_s, 2) for name in used}
    told = {
        "actions/s": round(traffic.sent / lasted_s),
        **{f"records behind at the end, {name}": count for name, count in behind.items()},
        **{f"{what}, after the end": count for what, count in left.items()},
        **{f"CPU share {name}": share for name, share in shares.items()},
        "Redis bytes a user": round((samples[-1].redis_mib - samples[0].redis_mib) * 2**20
                                    / (samples[-1].users - samples[0].users)),
    }  # fmt: skip
    return samples, left, told


def _left(watch: Watch) -> dict[str, int]:
    """Returns windows and rows (watermarks aside) that are left when all could have closed."""
    limit_s = time.monotonic() + END_S
    while True:
        left = {"open windows": watch.open_windows(), "alive rows": watch.alive_rows() - PARTITIONS}
        if not any(left.values()) or time.monotonic() > limit_s:
            return left
        time.sleep(SAMPLE_S)


def _slopes(samples: list[Sample]) -> dict[str, Slope]:
    last = [sample for sample in samples if sample.at_s >= samples[-1].at_s / 3]
    at_s = [sample.at_s for sample in last]
    return {name: slope_of(at_s, [one.rss_mib[name] for one in last]) for name in last[0].rss_mib}


def _broken(
    samples: list[Sample], slopes: Mapping[str, Slope], left: Mapping[str, int]
) -> list[str]:
    found = [
        f"{name} grows by {slopes[name].mib_per_hour:.1f} MiB an hour, over {GROWTH_MIB_PER_HOUR:g}"
        for name in WORKERS
        if name in slopes and slopes[name].mib_per_hour > GROWTH_MIB_PER_HOUR
    ]
    for what, count in _counts():
        beyond = [one for one in samples if count(one) > one.could_be_open]
        if beyond:
            worst = max(beyond, key=lambda one: count(one) - one.could_be_open)
            found.append(
                f"{count(worst)} {what} {worst.at_s:.0f} s after the start, "
                f"{worst.could_be_open} could be, and so in {len(beyond)} of {len(samples)} samples"
            )
    return found + [f"{count} {what} left after the end" for what, count in left.items() if count]


def _counts() -> list[tuple[str, Callable[[Sample], int]]]:
    return [
        ("open windows", lambda one: one.open_windows),
        ("alive rows", lambda one: one.alive_rows - PARTITIONS),
    ]


def _show(samples: list[Sample], slopes: Mapping[str, Slope], told: Mapping[str, Any]) -> None:
    third, last = samples[len(samples) // 3], samples[-1]
    rows = []
    for name in last.rss_mib:
        at = [f"{one.rss_mib[name]:.1f}" for one in (samples[0], third, last)]
        slope = slopes.get(name)
        grows = ["-"] * 3
        if slope is not None:
            interval = f"[{slope.low:.1f}, {slope.high:.1f}]"
            grows = [f"{slope.mib_per_hour:.1f}", interval, f"{slope.percent_per_hour:.1f}"]
        rows.append([name, *at, *grows])
    show(
        f"resident memory, {last.at_s:.0f} s; slopes over the last two thirds",
        ["process", "MiB at 0", "at a third", "at the end", "MiB/hour", "interval", "%/hour"],
        rows,
    )
    middle = samples[len(samples) // 3 :]
    counts = [("could be open", lambda one: one.could_be_open), *_counts()]
    show(
        "windows, over the last two thirds",
        ["what", "least", "most"],
        [[what, min(map(count, middle)), max(map(count, middle))] for what, count in counts],
    )
    show("the whole", ["figure", "value"], list(map(list, told.items())))


if __name__ == "__main__":
    main()
