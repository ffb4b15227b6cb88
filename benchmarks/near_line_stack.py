"""What the near-line benchmarks run: servers, a catalogue, and workers as processes."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition

from agents.faust_app import APP as AGGREGATORS
from agents.instruction_writer import GROUP as WRITERS
from agents.router import GROUP as ROUTERS
from agents.shop.catalogue import catalogue
from models.reasoning.item_text import item_text
from models.reasoning.text_encoder import CharacterEncoder
from schemas import topics
from schemas.catalog import ItemRow, ItemUpsert, item_key_of
from schemas.topics import topic_table
from streams.connections import RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.redis_client import worker_client
from streams.redis_epoch import begin_epoch
from streams.redis_items import RedisItems

PARTITIONS = 4
WORKERS = {
    "router": (ROUTERS, topics.ACTIONS),
    "window-aggregator": (AGGREGATORS, topics.HIGH_VALUE_ACTIONS),
    "instruction-writer": (WRITERS, topics.INSTRUCTION_TRIGGERS),
}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Servers:
    """Addresses, process ids by name, and the items that a shop of 608 sells."""

    bootstrap: str
    redis_url: str
    folder: Path
    pids: Mapping[str, int]
    items: list[ItemUpsert]


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Starts Kafka and Redis, fits an encoder, and puts the items' rows where reasoning reads."""
    items = catalogue(Random(0), 0)
    with empty_servers(folder) as at:
        generation = folder / "generations" / "1"
        CharacterEncoder.fit([item_text(item) for item in items]).save(generation)
        (generation / "manifest.json").write_text("{}")
        asyncio.run(_put(at.redis_url, items))
        yield replace(at, items=items)


@contextmanager
def empty_servers(folder: Path) -> Iterator[Servers]:
    """Starts Kafka with our topics and a Redis that may be written; nothing is sold."""
    with LocalKafka(folder / "kafka") as kafka, LocalRedis(folder / "redis") as redis_server:
        kafka.ensure_topics(topic_table(PARTITIONS))
        begin_epoch(RedisConfig(url=redis_server.url), now_ms=0)
        pids = {"Kafka": kafka.processes[0].pid, "Redis": redis_server.process.pid}
        yield Servers(kafka.bootstrap, redis_server.url, folder, pids, [])


async def _put(url: str, items: list[ItemUpsert]) -> None:
    client = worker_client(RedisConfig(url=url))
    rows = [
        ItemRow(
            item_key=item_key_of(item.item_id),
            item_id=item.item_id,
            live=True,
            title=item.title,
            category=item.category,
        )
        for item in items
    ]
    try:
        await RedisItems(client).put(rows)
    finally:
        await client.aclose()


@contextmanager
def workers(
    at: Servers,
    settings: Mapping[str, str],
    names: Iterable[str] = WORKERS,
    metrics_ports: Mapping[str, int] | None = None,
) -> Iterator[dict[str, int]]:
    """Runs workers, each with its metrics on its port if it has one; gives their process ids."""
    environment = {
        **os.environ,
        "OXYGENREC_KAFKA__BOOTSTRAP": at.bootstrap,
        "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
        "OXYGENREC_REDIS__URL": at.redis_url,
        "OXYGENREC_PATHS__HOME": str(at.folder),
        **settings,
    }
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            own = {"OXYGENREC_METRICS__PORT": str((metrics_ports or {}).get(name, 0))}
            with (at.folder / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, "-m", "agents.cli", "worker", name],
                    env={**environment, **own},
                    stdout=log,
                    stderr=log,
                )
        yield {name: process.pid for name, process in running.items()}
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait(30)


class Progress:
    """How far the workers' groups have committed."""

    def __init__(self, bootstrap: str) -> None:
        self._consumers = {
            name: Consumer({"bootstrap.servers": bootstrap, "group.id": group})
            for name, (group, _) in WORKERS.items()
        }

    def committed(self, worker: str) -> int:
        """Returns how many records the worker has finished."""
        try:
            places = self._consumers[worker].committed(self._places(worker), timeout=10)
        except KafkaException:  # the group's coordinator is not there yet
            return 0
        return sum(max(0, place.offset) for place in places)

    def end(self, worker: str) -> int:
        """Returns how many records there are for the worker."""
        asked = self._consumers[worker]
        return sum(asked.get_watermark_offsets(p, timeout=10)[1] for p in self._places(worker))

    def close(self) -> None:
        """Closes the connections."""
        for consumer in self._consumers.values():
            consumer.close()

    def _places(self, worker: str) -> list[TopicPartition]:
        return [TopicPartition(WORKERS[worker][1], partition) for partition in range(PARTITIONS)]


def until(done: Callable[[], bool], limit_s: float, what: str, poll_s: float = POLL_S) -> float:
    """Returns when (monotonic seconds) `done` was true. Ends the benchmark after `limit_s`."""
    limit = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > limit:
            raise SystemExit(f"not within {limit_s:g} s: {what}")
        time.sleep(poll_s)
    return time.monotonic()


@contextmanager
def first_history(at: Servers) -> Iterator[Callable[[], bool]]:
    """Gives what tells whether the router has written its first batch: it has begun.

    Its offsets say it up to a second later.
    """
    with redis.Redis.from_url(at.redis_url) as client:
        keys = client.dbsize()
        yield lambda: client.dbsize() > keys


def cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """Returns the CPU time of each process so far, user and system."""
    found = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return found


def peak_rss_mib(pid: int) -> float:
    """Returns the largest resident memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1_024


def rss_mib(pid: int) -> float:
    """Returns the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * PAGE_BYTES / 2**20
