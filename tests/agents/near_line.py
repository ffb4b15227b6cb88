"""What the integration tests of the workers share: real processes, and logs read to their end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Message, TopicPartition

from models.reasoning.item_text import item_text
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.assignment import Codebooks
from schemas.catalog import ItemUpsert

PARTITIONS = 4
CATEGORIES = ("Outdoor > Umbrellas", "Kitchen > Kettles", "Home > Lamps")
ITEMS = [
    ItemUpsert(
        item_id=f"item-{n}", title=f"{CATEGORIES[n % 3]} number {n}", category=CATEGORIES[n % 3]
    )
    for n in range(300)
]
START = "import sys; from agents.cli import main; sys.argv = ['oxygenrec', 'worker', {!r}]; main()"


def worker_environment(bootstrap: str, redis_url: str, home: Path, **more: str) -> dict[str, str]:
    """The settings of a worker process: these servers, two-second windows."""
    return {
        "OXYGENREC_KAFKA__BOOTSTRAP": bootstrap,
        "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
        "OXYGENREC_REDIS__URL": redis_url,
        "OXYGENREC_PATHS__HOME": str(home),
        "OXYGENREC_WINDOWS__WINDOW_MS": "2000",
        "OXYGENREC_WINDOWS__GRACE_MS": "1000",
        **more,
    }


class WorkerProcess:
    """`oxygenrec worker NAME` as a process of its own, with its log in `folder`."""

    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._environment = {**os.environ, **environment}
        self.log = folder / f"{name}.log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", START.format(self.name)],
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    @property
    def ended(self) -> bool:
        """Whether the process is gone, by itself or killed."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait(10)

    def restart(self) -> None:
        """A new process in place of one that has ended."""
        self._process = self._start()

    def kill_and_restart(self) -> None:
        """kill -9, then a new process."""
        self.kill()
        self.restart()

    def wait(self, timeout_s: float) -> int:
        """Returns the exit code of a process that ends by itself."""
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
            raise


class Logs:
    """Reads whole topics, without a group of its own."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "near-line-tests",
                "enable.auto.commit": False,
            }
        )

    def ends(self, topic: str, partitions: int = PARTITIONS) -> list[int]:
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        return [self._consumer.get_watermark_offsets(place, timeout=10)[1] for place in places]

    def committed(self, group: str, topic: str, bootstrap: str) -> list[int]:
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        try:
            return [place.offset for place in consumer.committed(places, timeout=10)]
        finally:
            consumer.close()

    def read(self, topic: str, partitions: int = PARTITIONS) -> list[list[Message]]:
        """Returns the messages of each partition up to its present end."""
        return [self._read(topic, p, end) for p, end in enumerate(self.ends(topic, partitions))]

    def _read(self, topic: str, partition: int, end: int) -> list[Message]:
        place = TopicPartition(topic, partition, 0)
        self._consumer.assign([place])
        found: list[Message] = []
        deadline = time.monotonic() + 30
        while end and time.monotonic() < deadline:
            found += [m for m in self._consumer.consume(1_000, 0.2) if m.error() is None]
            if self._consumer.position([place])[0].offset >= end:
                break
        return found

    def close(self) -> None:
        self._consumer.close()


def eventually(
    check: Callable[[], Any], timeout_s: float, what: str, *, every_s: float = 0.2
) -> Any:
    """Returns the first true answer of `check`; after `timeout_s` it fails, saying what lacks."""
    deadline = time.monotonic() + timeout_s
    while True:
        if answer := check():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(every_s)


def fit_generation(home: Path) -> CharacterEncoder:
    """Writes what the indexer and the writer read of a generation."""
    folder = home / "generations" / "1"
    encoder = CharacterEncoder.fit([item_text(item) for item in ITEMS])
    encoder.save(folder)
    centroids = np.random.default_rng(0).standard_normal((3, 16, encoder.dim))
    Codebooks(centroids=centroids.astype(np.float32)).save(folder)
    (folder / "manifest.json").write_text("{}")
    return encoder
