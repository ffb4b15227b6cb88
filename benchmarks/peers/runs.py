"""One run of one system over the log: seconds, CPU time, memory, and what it made of the job."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import redis
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from benchmarks.near_line_stack import (
    PARTITIONS,
    Progress,
    Servers,
    cpu_s,
    first_history,
    peak_rss_mib,
    until,
    workers,
)
from benchmarks.peers.environments import python_of
from benchmarks.peers.log import Comparison, Log, Told, compared, one_user_each
from schemas import topics
from schemas.errors import OxygenRecError

ROOT = Path(__file__).resolve().parents[2]
GROUP = "peer"
LIMIT_S = 240.0  # of one run; the slowest peer takes 40 s for 400,000 actions
STOP_S = 30.0
LOOK_S = 0.02  # a hundredth of the shortest run
OURS = ("router", "window-aggregator")
SETTINGS = {  # the job's: a replay, and windows that begin at the same time for everybody
    "OXYGENREC_ROUTER__CLOCK": "event",
    "OXYGENREC_WINDOWS__STAGGER": "false",
}

_told: msgspec.json.Decoder[Told] = msgspec.json.Decoder(Told)


@dataclass(frozen=True, slots=True)
class Run:
    """From the first record read until everything is written and committed."""

    seconds: float
    cpu_s: Mapping[str, float]  # by process, of the system itself
    servers_cpu_s: Mapping[str, float]
    peak_mib: float  # largest resident memory, summed over the system's processes
    comparison: Comparison
    history: int  # entries in Redis


@dataclass(frozen=True, slots=True)
class Span:
    """What is known of a run before its results are read."""

    seconds: float
    cpu_s: Mapping[str, float]
    servers_cpu_s: Mapping[str, float]
    peak_mib: float


class PeerFailed(OxygenRecError):
    """A peer ended, or did not, before the job was done."""

    def __init__(self, *, peer: str, why: str) -> None:
        self.peer = peer
        self.why = why
        super().__init__(f"{peer}: {why}")


def run(at: Servers, log: Log, work: Callable[[Servers, Log], Span]) -> Run:
    """Fills `actions`, lets a system work, and compares. Raises what `work` raises."""
    _fill(at, log)
    span = work(at, log)
    return Run(
        span.seconds,
        span.cpu_s,
        span.servers_cpu_s,
        span.peak_mib,
        compared(log.windows, _triggers(at.bootstrap), ends=one_user_each(PARTITIONS)),
        _history(at.redis_url),
    )


def ours(at: Servers, log: Log) -> Span:
    """Runs router and window aggregator until both have committed everything.

    It begins with the first history in Redis, a batch after the first record was read.
    """
    progress = Progress(at.bootstrap)
    with first_history(at) as routing, workers(at, SETTINGS, OURS) as pids:
        begun = until(routing, 60, "first history", LOOK_S)
        before, servers_before = cpu_s(pids), cpu_s(at.pids)
        routed = len(log.records)
        until(lambda: progress.committed("router") >= routed, LIMIT_S, "all routed", LOOK_S)
        until(lambda: _aggregated(progress), LIMIT_S, "all windows closed", LOOK_S)
        seconds, after = time.monotonic() - begun, cpu_s(pids)
        servers_used = _less(cpu_s(at.pids), servers_before)
        peak_mib = sum(peak_rss_mib(pid) for pid in pids.values())
    progress.close()
    return Span(seconds, _less(after, before), servers_used, peak_mib)


def peer(name: str, *, processes: int = 1, commit_every: int = 0) -> Callable[[Servers, Log], Span]:
    """Returns the work of a peer in its own environment.

    It raises `PeerFailed`, and `PeerUnavailable` where it has no environment.
    """

    def work(at: Servers, log: Log) -> Span:
        # One process stops by itself after the last action; of several none knows which is last.
        count = len(log.records) if processes == 1 else 0
        options = ["--actions", str(count), "--commit-every", str(commit_every)]
        with _started(name, at, options, processes) as running:
            limit_s = time.monotonic() + LIMIT_S
            _wait(name, running, limit_s, lambda: any(map(_marks, running)))
            before = cpu_s(at.pids)
            _wait(name, running, limit_s, lambda: _is_done(at, log, running))
            ended_s, servers_used = time.monotonic(), _less(cpu_s(at.pids), before)
            for process in running.values():
                process.terminate()
                process.wait(STOP_S)
            marks = {folder.name: _marks(folder) for folder in running}
        # A process that a rebalance gave nothing to do has no first mark.
        worked = {name: found for name, found in marks.items() if len(found) == 2}
        if processes == 1:
            ended_s = worked[f"{name}-0"][1]["at_s"]
        return Span(
            ended_s - min(began["at_s"] for began, _ in worked.values()),
            {one: end["cpu_s"] - began["cpu_s"] for one, (began, end) in worked.items()},
            servers_used,
            sum(found[-1]["peak_kib"] for found in marks.values()) / 1_024,
        )

    return work


@contextmanager
def _started(
    name: str, at: Servers, options: Sequence[str], processes: int
) -> Iterator[dict[Path, subprocess.Popen[bytes]]]:
    python = python_of(name)
    running: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        for number in range(processes):
            folder = at.folder / f"{name}-{number}"
            folder.mkdir()
            command = [
                str(python),
                "-m",
                f"benchmarks.peers.{name}_job",
                "--bootstrap",
                at.bootstrap,
            ]
            command += ["--redis-url", at.redis_url, "--folder", str(folder), *options]
            with (folder / "marks").open("wb") as marks, (folder / "log").open("wb") as log:
                running[folder] = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stdout=marks,
                    stderr=log,
                )
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _wait(
    name: str,
    running: Mapping[Path, subprocess.Popen[bytes]],
    limit_s: float,
    done: Callable[[], bool],
) -> None:
    while not done():
        for folder, process in running.items():
            if process.poll() not in (None, 0):
                raise PeerFailed(peer=name, why=_last_words(folder))
        if time.monotonic() > limit_s:
            raise PeerFailed(peer=name, why=f"not done within {LIMIT_S:g} s")
        time.sleep(LOOK_S)


def _is_done(at: Servers, log: Log, running: Mapping[Path, subprocess.Popen[bytes]]) -> bool:
    if all(process.poll() == 0 for process in running.values()):
        return True
    return len(running) > 1 and _committed(at.bootstrap) >= len(log.records)


def _committed(bootstrap: str) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP})
    places = [TopicPartition(topics.ACTIONS, partition) for partition in range(PARTITIONS)]
    try:
        return sum(max(0, place.offset) for place in consumer.committed(places, timeout=10))
    except KafkaException:  # the group's coordinator is not there yet
        return 0
    finally:
        consumer.close()


def _marks(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "marks").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _last_words(folder: Path) -> str:
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"


def _fill(at: Servers, log: Log) -> None:
    producer = Producer(
        {
            "bootstrap.servers": at.bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
            "log_level": 3,  # an idempotent producer tells how it waits for a new broker
            "enable.idempotence": True,  # in order, whatever is sent again
        }
    )
    for key, value in log.records:
        producer.produce(topics.ACTIONS, value, key)
    if left := producer.flush(60):
        raise SystemExit(f"Kafka did not take {left} of {len(log.records)} actions")


def _triggers(bootstrap: str) -> Iterator[Told]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "peers-benchmark"})
    places = [TopicPartition(topics.INSTRUCTION_TRIGGERS, p, 0) for p in range(PARTITIONS)]
    left = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
    consumer.assign(places)
    while left > 0:
        messages = consumer.consume(10_000, 5.0)
        if not messages:
            raise SystemExit(f"Kafka does not give {left} triggers")
        for message in messages:
            left -= 1
            yield _told.decode(message.value() or b"")
    consumer.close()


def _history(url: str) -> int:
    client = redis.Redis.from_url(url)
    pipeline = client.pipeline(transaction=False)
    for key in client.scan_iter("history:*", count=1_000):
        pipeline.zcard(key)
    found = sum(pipeline.execute())
    client.close()
    return int(found)


def _aggregated(progress: Progress) -> bool:
    return progress.committed("window-aggregator") >= progress.end("window-aggregator")


def _less(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}
