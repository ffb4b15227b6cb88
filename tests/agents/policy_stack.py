"""A broker of its own, a catalogue and a generation: what trainer and publisher need."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.settings import PathsConfig, Settings
from models.policy.config import PolicyConfig
from schemas import topics
from schemas.rewards import RewardEvent
from schemas.topics import topic_table
from streams.connections import KafkaConfig, TritonConfig
from streams.local.kafka import LocalKafka
from streams.producer import RecordProducer
from tests.models.policy.served_world import catalogue, write_generation

POLICY = PolicyConfig(groups_per_step=4, steps_per_publish=5, learning_rate=1e-3)


@dataclass(frozen=True, slots=True)
class PolicyStack:
    """Settings and a producer on one running broker."""

    settings: Settings
    producer: RecordProducer
    triton_metrics_url: str = ""

    @property
    def repository(self) -> Path:
        """The folder of the generator's versions."""
        return Path(self.settings.paths.home) / "model_repository" / "generator"

    def reward(self, events: Sequence[RewardEvent]) -> None:
        """Appends events to `rewards`."""
        for event in events:
            self.producer.send(topics.REWARDS, event, event.request_id)
        self.producer.flush(10_000)


@contextmanager
def policy_stack(folder: Path, triton_grpc_url: str = "") -> Iterator[PolicyStack]:
    """Starts Kafka, fills `semantic-ids` and writes generation 1."""
    home = folder / "home"
    write_generation(home)
    with LocalKafka(folder / "kafka") as kafka:
        kafka.ensure_topics(topic_table(1))
        settings = Settings(
            paths=PathsConfig(home=str(home)),
            kafka=KafkaConfig(bootstrap=kafka.bootstrap, partitions=1, replication=1),
            triton=TritonConfig(grpc_url=triton_grpc_url),
            policy=POLICY,
        )
        with RecordProducer(settings.kafka, "test") as producer:
            for item in catalogue():
                producer.send(topics.SEMANTIC_IDS, item, str(item.item_key))
            producer.flush(10_000)
            yield PolicyStack(settings, producer)
