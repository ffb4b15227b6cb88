"""What the logs say while the demo runs: closed windows, instructions, rewards, published policies.

It reads Kafka beside the workers and belongs to no consumer group: it changes nothing.
"""

import threading
from dataclasses import dataclass, field
from typing import Self

from confluent_kafka import Consumer, TopicPartition

from schemas import topics
from schemas.codec import Decoder
from schemas.instructions import InstructionTrigger, ReasoningInstruction
from schemas.policies import PolicyPublished
from streams.connections import KafkaConfig

POLL_S = 0.2
BATCH = 200
WATCHED = (
    topics.INSTRUCTION_TRIGGERS,
    topics.INSTRUCTIONS,
    topics.REWARDS,
    topics.POLICIES,
    topics.DEAD_LETTERS,
)

_triggers: Decoder[InstructionTrigger] = Decoder(InstructionTrigger)
_instructions: Decoder[ReasoningInstruction] = Decoder(ReasoningInstruction)
_policies: Decoder[PolicyPublished] = Decoder(PolicyPublished)


@dataclass(slots=True)
class Seen:
    """What was read so far: records by topic, and the newest of each kind."""

    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WATCHED, 0))
    trigger: InstructionTrigger | None = None
    instruction: ReasoningInstruction | None = None
    policy: PolicyPublished | None = None
    windows: set[str] = field(default_factory=set)
    instructed: set[str] = field(default_factory=set)


class LogObserver:
    """A context: follows the watched topics from their beginning, in a thread."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self.seen = Seen()
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": "oxygenrec-demo-observer",  # demanded by the client, never committed to
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 200,
            }
        )
        self._assigned = [
            TopicPartition(topic.name, partition, 0)
            for topic in topics.topic_table(kafka.partitions)
            if topic.name in WATCHED
            for partition in range(topic.partitions)
        ]
        self._thread = threading.Thread(target=self._follow, name="log-observer", daemon=True)

    def __enter__(self) -> Self:
        """Starts reading."""
        self._consumer.assign(self._assigned)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _follow(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(BATCH, timeout=POLL_S):
                topic, value = message.topic(), message.value()
                if message.error() is None and topic is not None and value is not None:
                    note(self.seen, topic, value)


def note(seen: Seen, topic: str, value: bytes) -> None:
    """Adds one record to what was seen. Raises `InvalidRecord` where the log holds another one."""
    seen.records[topic] += 1
    if topic == topics.INSTRUCTION_TRIGGERS:
        seen.trigger = _triggers.decode(value)
        seen.windows.add(seen.trigger.trigger_id)
    elif topic == topics.INSTRUCTIONS:
        seen.instruction = _instructions.decode(value)
        seen.instructed.add(seen.instruction.instruction_id)
    elif topic == topics.POLICIES:
        seen.policy = _policies.decode(value)
