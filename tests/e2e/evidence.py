"""What one end-to-end run left behind: what clients were told, what the logs and Redis hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.edge.recommendation_api import RecommendationAnswer
from agents.settings import Settings
from models.policy.index_growth import IndexGrowth
from models.policy.step_log import StepReport
from schemas import topics
from schemas.actions import HighValueRecord, UserAction
from schemas.catalog import SidAssignment
from schemas.codec import RECORDS, Decoder
from schemas.instructions import trigger_id_of
from schemas.topics import topic_table
from streams.connections import KafkaConfig
from streams.log_reader import LogReader, LogRecord


@dataclass(slots=True)
class Evidence:
    """One run. `logs` holds the records of every topic by partition, read after the drain."""

    settings: Settings
    acknowledged: dict[str, UserAction] = field(default_factory=dict)
    answers: list[RecommendationAnswer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)
    poison: list[bytes] = field(default_factory=list)
    logs: dict[str, list[list[LogRecord]]] = field(default_factory=dict)
    history: dict[str, set[str]] = field(default_factory=dict)
    in_force: dict[str, str] = field(default_factory=dict)
    stock_changes: list[RecommendationAnswer] = field(default_factory=list)  # before, out, in
    items: int = 0
    steps: list[StepReport] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)  # of each process, as Prometheus sees it

    @property
    def home(self) -> Path:
        return Path(self.settings.paths.home)

    @property
    def versions(self) -> Path:
        return self.home / "model_repository" / self.settings.triton.model

    def records(self, topic: str) -> list[Any]:
        """Returns the decoded records of a topic, partition by partition, without tombstones."""
        return [record for partition in self.partitions(topic) for record in partition]

    def partitions(self, topic: str) -> list[list[Any]]:
        """Returns the decoded records of each partition, in order."""
        decoder: Decoder[Any] = Decoder(RECORDS[topic])
        return [
            [decoder.decode(record.value) for record in partition if record.value is not None]
            for partition in self.logs[topic]
        ]

    def growth(self) -> IndexGrowth:
        """Returns how the item index grew, as the trainer reads it."""
        decoder: Decoder[SidAssignment] = Decoder(SidAssignment)
        (log,) = self.logs[topics.SEMANTIC_IDS]
        growth = IndexGrowth()
        growth.extend(((r.offset, decoder.decode(r.value)) for r in log if r.value), len(log))
        return growth

    def high_value(self) -> Sequence[Sequence[HighValueRecord]]:
        """Returns what the aggregator read, with the watermarks in their places."""
        return self.partitions(topics.HIGH_VALUE_ACTIONS)


def newest_of_each_user(trigger_ids: Iterable[str]) -> set[str]:
    """Returns the triggers that no newer one of their user may supersede."""
    newest: dict[str, int] = {}
    for trigger_id in trigger_ids:
        user, _, start_ms = trigger_id.rpartition(":")
        newest[user] = max(newest.get(user, 0), int(start_ms))
    return {trigger_id_of(user, start_ms) for user, start_ms in newest.items()}


async def read_logs(kafka: KafkaConfig) -> dict[str, list[list[LogRecord]]]:
    """Returns all records of all topics by partition (the aggregator's changelog left out)."""
    logs: dict[str, list[list[LogRecord]]] = {}
    for topic in topic_table(kafka.partitions):
        if topic.name in RECORDS and topic.name != topics.ACTIONS:
            logs[topic.name] = [
                await read_log(kafka, topic.name, number) for number in range(topic.partitions)
            ]
    return logs


async def read_log(kafka: KafkaConfig, topic: str, partition: int) -> list[LogRecord]:
    """Returns the records of one partition up to its present end."""
    async with LogReader(kafka, topic, partition) as reader:
        return await reader.read()
