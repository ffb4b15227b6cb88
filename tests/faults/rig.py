"""The servers and workers of a run: three Kafka nodes, one Redis, four workers as processes."""

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import msgspec
import redis
from confluent_kafka import Consumer, TopicPartition
from redis.exceptions import RedisError

from schemas import topics
from schemas.behaviour import Behaviour
from schemas.codec import RECORDS, Decoder
from schemas.dead_letters import DeadLetter
from schemas.instructions import InstructionTrigger
from schemas.topics import topic_table
from streams.connections import KafkaConfig, RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.producer import RecordProducer
from streams.redis_epoch import begin_epoch
from streams.redis_keys import instruction_key
from streams.windows import WindowConfig
from tests.agents.near_line import PARTITIONS, WorkerProcess, fit_generation, worker_environment
from tests.faults.verdict import Observed

WORKERS = ("router", "window-aggregator", "instruction-writer", "reward-joiner")
WINDOWS = WindowConfig(window_ms=2_000, grace_ms=1_000)  # as `worker_environment` sets them
ATTRIBUTION_MS = 3_000
SUPERVISED_EVERY_S = 0.5
READ = (
    *(topics.HIGH_VALUE_ACTIONS, topics.INSTRUCTION_TRIGGERS, topics.INSTRUCTIONS),
    *(topics.REWARDS, topics.DEAD_LETTERS),
)


class Rig:
    """Starts everything, starts workers again that ended by themselves, and stops it by id."""

    def __init__(self, folder: Path, *, nodes: int = 3) -> None:
        self.kafka = LocalKafka(folder / "kafka", nodes=nodes)
        self.redis = LocalRedis(folder / "redis")
        self.folder = folder
        self.restarts = 0  # of workers that ended by themselves
        self.workers: dict[str, WorkerProcess] = {}
        self._ended = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self.environment = worker_environment(
            *(self.kafka.bootstrap, self.redis.url, folder),
            OXYGENREC_ROUTER__HISTORY_LENGTH="100000",  # all of it is compared
            OXYGENREC_REWARDS__ATTRIBUTION_MS=str(ATTRIBUTION_MS),
            OXYGENREC_REWARDS__LIVE_LAG_MS="500",
        )

    def __enter__(self) -> Self:
        try:
            (self.folder / "redis").mkdir(parents=True, exist_ok=True)
            self.redis.start()
            self.kafka.start().ensure_topics(topic_table(PARTITIONS))
            begin_epoch(RedisConfig(url=self.redis.url), now_ms=0)
            fit_generation(self.folder)
            for name in WORKERS:
                self.add_worker(name)
            self._supervisor.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop()

    def producer(self) -> RecordProducer:
        """Returns a producer as any client has it."""
        return RecordProducer(KafkaConfig(bootstrap=self.kafka.bootstrap), "faults")

    def add_worker(self, name: str, *, beside: str = "") -> None:
        """Starts a worker; `beside` names one more member of the same group."""
        folder = self.folder / "logs" / (beside or "first")
        folder.mkdir(parents=True, exist_ok=True)
        self.workers[beside or name] = WorkerProcess(name, self.environment, folder)

    def remove_worker(self, name: str) -> WorkerProcess:
        """Takes a worker out of the supervisor's sight and returns it, still running."""
        return self.workers.pop(name)

    def restore(self) -> None:
        """`oxygenrec restore`, as an operator runs it."""
        subprocess.run(
            [sys.executable, "-m", "agents.cli", "restore"],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            timeout=120,
        )

    def _supervise(self) -> None:
        while not self._ended.wait(SUPERVISED_EVERY_S):
            for worker in list(self.workers.values()):
                if worker.ended:
                    self.restarts += 1
                    worker.restart()

    def _stop(self) -> None:
        self._ended.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for worker in self.workers.values():
            if not worker.ended:
                worker.kill()
        self.kafka.stop(keep_data=False)
        self.redis.stop()


class Evidence:
    """Reads the topics of a run once, record after record, and the users' keys in Redis."""

    def __init__(self, rig: Rig) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": rig.kafka.bootstrap,
                "group.id": "faults-evidence",  # required, never joined
                "enable.auto.commit": False,
            }
        )
        self._redis = redis.Redis.from_url(rig.redis.url)
        self._behaviour = msgspec.json.Decoder(Behaviour)
        self._decoders: dict[str, Decoder[Any]] = {name: Decoder(RECORDS[name]) for name in READ}
        self._records: dict[str, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        self._positions: dict[tuple[str, int], int] = defaultdict(int)

    def read(self, topic: str) -> list[list[Any]]:
        """Returns the records of each partition up to its present end."""
        partitions = next(t.partitions for t in topic_table(PARTITIONS) if t.name == topic)
        for partition in range(partitions):
            self._read_on(topic, partition)
        return [self._records[topic][partition] for partition in range(partitions)]

    def _read_on(self, topic: str, partition: int) -> None:
        at = self._positions[topic, partition]
        place = TopicPartition(topic, partition, at)
        _, end = self._consumer.get_watermark_offsets(place, timeout=30)
        if at >= end:
            return
        self._consumer.assign([place])
        deadline = time.monotonic() + 30
        while at < end and time.monotonic() < deadline:
            for message in self._consumer.consume(1_000, 0.2):
                offset = message.offset()
                if message.error() is not None or offset is None:
                    continue
                at = offset + 1
                if (value := message.value()) is not None:
                    record = self._decoders[topic].decode(value)
                    self._records[topic][partition].append(record)
        self._positions[topic, partition] = at

    def of(self, name: str, users: set[str]) -> Observed:
        """Returns what the scenario `name` left behind; `users` are those of its ledger."""
        mine = f"{name}-"
        logs: dict[str, list[Any]] = {
            topic: [record for part in self.read(topic) for record in part] for topic in READ
        }
        triggers: list[InstructionTrigger] = [
            trigger
            for trigger in logs[topics.INSTRUCTION_TRIGGERS]
            if trigger.user_id.startswith(mine)
        ]
        return Observed(
            history={user: self._history(user) for user in users},
            high_value=[
                [r for r in part if getattr(r, "user_id", mine).startswith(mine)]
                for part in self.read(topics.HIGH_VALUE_ACTIONS)
            ],
            triggers=triggers,
            stored={user: self.as_of_ms(user) for user in {t.user_id for t in triggers}},
            logged={
                made.user_id: made.as_of_ms
                for made in logs[topics.INSTRUCTIONS]
                if made.user_id.startswith(mine)
            },
            rewards=[e for e in logs[topics.REWARDS] if e.request_id.startswith(mine)],
            letters=[
                letter
                for letter in logs[topics.DEAD_LETTERS]
                if isinstance(letter, DeadLetter) and mine.encode() in letter.value
            ],
        )

    def answered(self, users: list[str]) -> bool:
        """Tells whether each probe user has an instruction in Redis and a reward in the log."""
        try:
            if not all(map(self.as_of_ms, users)):
                return False
        except RedisError:
            return False
        rewarded = {event.request_id for part in self.read(topics.REWARDS) for event in part}
        return {f"{user}-request" for user in users} <= rewarded

    def as_of_ms(self, user: str) -> int:
        """Returns the time that the user's instruction in Redis speaks about, 0 without one."""
        return int(cast(bytes | None, self._redis.hget(instruction_key(1, user), "as_of_ms")) or 0)

    def _history(self, user: str) -> list[str]:
        members = cast(list[bytes], self._redis.zrange(f"history:{user}", 0, -1))
        return [self._behaviour.decode(member).event_id for member in members]

    def close(self) -> None:
        """Ends the consumer and the client."""
        self._consumer.close()
        self._redis.close()
