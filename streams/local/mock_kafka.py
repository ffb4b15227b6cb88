"""The embedded broker: the fallback where neither Java nor Kafka's jars can be had.

It is librdkafka's mock cluster in a child process. **No durability**: records live in that process,
and a partition silently drops its oldest records beyond 5 MB. A byte guard reads every partition
beside the application, warns at 4 MB, and says so when records have been dropped: `warnings`.
No compaction, no configuration of topics, no checksums (`check_crcs` must be off in aiokafka).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from schemas.topics import Topic
from streams.local.broker import admin_client, missing_topics, partition_counts
from streams.local.errors import BrokerUnreachable
from streams.local.process import LocalProcess

READY_TIMEOUT_S = 15.0  # 0.3 s here
CREATE_TIMEOUT_S = 10.0


class MockKafka:
    """Starts and stops the embedded broker behind the interface of `Broker`."""

    kind: Literal["kafka", "mock"] = "mock"
    check_crcs = False
    replication = 1
    durable = False

    def __init__(self, folder: Path) -> None:
        """Prepares the broker; its address file and log are in `folder`."""
        self.bootstrap = ""
        self._address = folder / "bootstrap"
        self.process = LocalProcess(
            "kafka",
            [sys.executable, "-m", "streams.local.mock_cluster", self._address],
            log=folder / "mock-kafka.log",
            with_input=True,
        )

    @property
    def processes(self) -> list[LocalProcess]:
        """Its one process."""
        return [self.process]

    @property
    def warnings(self) -> list[str]:
        """What the byte guard has said so far; empty while no record can have been lost."""
        try:
            lines = self.process.log.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.removeprefix("WARNING ") for line in lines if line.startswith("WARNING ")]

    def launch(self) -> Self:
        """Starts the broker without waiting for it."""
        self._address.unlink(missing_ok=True)
        self.process.start()
        return self

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Returns when the broker listens; raises ServerExited or ServerNotReady."""
        self.process.wait_ready(self._address.exists, timeout_s=timeout_s)
        self.bootstrap = self._address.read_text()
        return self

    def start(self) -> Self:
        """Starts the broker and waits; a failed start leaves no process."""
        try:
            return self.launch().wait_ready()
        except BaseException:
            self.stop()
            raise

    def ensure_topics(self, table: Sequence[Topic]) -> None:
        """Creates the missing topics (their configuration is ignored); raises TopicMismatch.

        They go through the process's input: the mock cluster answers no CreateTopics.
        """
        admin = admin_client(self.bootstrap)
        for topic in missing_topics(partition_counts(admin, self.bootstrap), table):
            self.process.stdin.write(f"{topic.name} {topic.partitions}\n".encode())
        self.process.stdin.flush()
        deadline = time.monotonic() + CREATE_TIMEOUT_S
        while missing := missing_topics(partition_counts(admin, self.bootstrap), table):
            if time.monotonic() > deadline:
                names = ", ".join(topic.name for topic in missing)
                raise BrokerUnreachable(
                    bootstrap=self.bootstrap, request=f"create topics {names}", cause="no answer"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Stops the broker; all records are gone."""
        self.process.stop(grace_s=3.0)

    def close(self) -> None:
        """Stops the broker."""
        self.stop()

    def __enter__(self) -> Self:
        """Starts the broker."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stops the broker."""
        self.stop()
