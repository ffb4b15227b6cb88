"""librdkafka's mock cluster in a process of its own: `python -m streams.local.mock_cluster FILE`.

It writes its address to FILE, creates the topic of each line `NAME PARTITIONS` of its standard
input, watches how full the partitions are, and ends with the input or on SIGTERM.
"""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

# Beyond 5 MB a partition the mock drops the oldest records, acknowledged or not.
WARN_BYTES = 4_000_000
RECORD_OVERHEAD_BYTES = 80  # attributes, timestamp and headers of a record, from above
WATCH_INTERVAL_S = 0.5


class ByteGuard:
    """Adds up what each partition stores, and warns once a partition at `WARN_BYTES`.

    It counts keys and values as they are read, uncompressed: with compression it warns early.
    """

    def __init__(self, warn_bytes: int = WARN_BYTES) -> None:
        self._warn_bytes = warn_bytes
        self._stored: dict[tuple[str, int], int] = {}
        self._warned: set[tuple[str, int]] = set()
        self._lost: dict[tuple[str, int], int] = {}

    def count(self, topic: str, partition: int, size_bytes: int) -> str | None:
        """Counts one record; returns the warning when the partition has just become too full."""
        at = (topic, partition)
        self._stored[at] = self._stored.get(at, 0) + size_bytes + RECORD_OVERHEAD_BYTES
        if self._stored[at] < self._warn_bytes or at in self._warned:
            return None
        self._warned.add(at)
        return (
            f"{topic}[{partition}] holds {self._stored[at] / 1e6:.1f} MB: the embedded broker drops"
            " acknowledged records beyond 5 MB a partition; use a real Kafka (`make setup`)"
        )

    def observe_start(self, topic: str, partition: int, first_offset: int) -> str | None:
        """Returns the warning when records at the start of the log have been dropped."""
        at = (topic, partition)
        if first_offset <= self._lost.get(at, 0):
            return None
        self._lost[at] = first_offset
        return f"{topic}[{partition}] has dropped its first {first_offset} records: the run is void"


class MockCluster:
    """The cluster itself, through ctypes: the wheel has no Python interface to it."""

    def __init__(self, brokers: int = 1) -> None:
        """Starts `brokers` listeners on free loopback ports inside this process."""
        library = self._library = _librdkafka()
        error = ctypes.create_string_buffer(512)
        configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
        self._client = library.rd_kafka_new(0, configuration, error, 512)
        if not self._client:
            raise OSError(error.value.decode())
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, brokers)
        library.rd_kafka_mock_set_controller_id(self._cluster, 1)
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.bootstrap = str(library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def create_topic(self, name: str, partitions: int) -> None:
        """Creates a topic; one that exists with other partitions is an OSError."""
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if code:
            raise OSError(f"mock topic {name}: librdkafka error {code}")

    def close(self) -> None:
        """Ends the cluster; its records are gone."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def _librdkafka() -> ctypes.CDLL:
    spec = importlib.util.find_spec("confluent_kafka")
    package = Path(spec.origin).parent if spec and spec.origin else Path()
    bundled = sorted((package.parent / "confluent_kafka.libs").glob("librdkafka-*.so*"))
    library = ctypes.CDLL(str(bundled[0]) if bundled else "librdkafka.so.1")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, *parameters in (
        ("rd_kafka_conf_new", pointer),
        ("rd_kafka_new", pointer, number, pointer, text, ctypes.c_size_t),
        ("rd_kafka_destroy", None, pointer),
        ("rd_kafka_mock_cluster_new", pointer, pointer, number),
        ("rd_kafka_mock_cluster_bootstraps", text, pointer),
        ("rd_kafka_mock_cluster_destroy", None, pointer),
        ("rd_kafka_mock_set_controller_id", number, pointer, ctypes.c_int32),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, pointer, ctypes.c_int32),
        ("rd_kafka_mock_topic_create", number, pointer, text, number, number),
    ):
        function = getattr(library, str(name))
        function.restype, function.argtypes = result, parameters
    return library


class Watch:
    """Reads every partition once with a consumer of its own and writes the guard's warnings."""

    def __init__(self, bootstrap: str) -> None:
        self._guard = ByteGuard()
        self._partitions: list[TopicPartition] = []
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "byte-guard",  # required, never joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 3,
            }
        )

    def look(self) -> None:
        """Counts what has arrived since the last look."""
        found = {
            (topic.topic, partition)
            for topic in self._consumer.list_topics(timeout=5).topics.values()
            for partition in topic.partitions
        }
        known = {(at.topic, at.partition) for at in self._partitions}
        if new := [TopicPartition(*at, 0) for at in sorted(found - known)]:
            self._partitions += new
            self._consumer.incremental_assign(new)
        while messages := self._consumer.consume(1000, timeout=0.1):
            for message in messages:
                if message.error() is None:
                    size = len(message.key() or b"") + len(message.value() or b"")
                    self._say(
                        self._guard.count(message.topic() or "", message.partition() or 0, size)
                    )
        for at in self._partitions:
            first, _ = self._consumer.get_watermark_offsets(at, timeout=5, cached=True)
            self._say(self._guard.observe_start(at.topic, at.partition, first))

    def close(self) -> None:
        """Ends the consumer."""
        self._consumer.close()

    @staticmethod
    def _say(warning: str | None) -> None:
        if warning:
            print(f"WARNING {warning}", flush=True)


def _create_from(lines: Iterable[str], cluster: MockCluster) -> None:
    for line in lines:
        name, partitions = line.split()
        cluster.create_topic(name, int(partitions))


def main() -> None:
    """Runs one cluster until the input ends or SIGTERM arrives."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    cluster = MockCluster()
    print("embedded broker: NO DURABILITY, records live in this process alone", flush=True)
    address = Path(sys.argv[1])
    address.with_suffix(".new").write_text(cluster.bootstrap)
    address.with_suffix(".new").rename(address)

    def read_input() -> None:
        try:
            _create_from(sys.stdin, cluster)
        finally:
            ended.set()

    threading.Thread(target=read_input, daemon=True).start()
    watch = Watch(cluster.bootstrap)
    while not ended.wait(WATCH_INTERVAL_S):
        watch.look()
    watch.close()
    cluster.close()


if __name__ == "__main__":
    main()
