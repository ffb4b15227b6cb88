"""What a run left behind: the topics read once, record after record, and the keys in Redis."""

import time
from collections import defaultdict
from typing import Any, cast

import msgspec
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from redis.exceptions import RedisError

from schemas import topics
from schemas.behaviour import Behaviour
from schemas.catalog import item_key_of
from schemas.codec import RECORDS, Decoder
from schemas.dead_letters import DeadLetter
from schemas.instructions import InstructionTrigger
from schemas.topics import topic_table
from schemas.users import UserProfile
from streams.redis_keys import instruction_key, item_key, profile_key
from tests.agents.near_line import PARTITIONS
from tests.faults.rig import Rig
from tests.faults.traffic import Ledger, number_of
from tests.faults.verdict import Observed

READ = (
    *(topics.HIGH_VALUE_ACTIONS, topics.INSTRUCTION_TRIGGERS, topics.INSTRUCTIONS),
    *(topics.REWARDS, topics.SEMANTIC_IDS, topics.DEAD_LETTERS),
)


class Evidence:
    """Reads the topics of a run once, record after record, and the users' keys in Redis."""

    def __init__(self, rig: Rig) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": rig.kafka.bootstrap,
                "group.id": "faults-evidence",  # required, never joined
                "enable.auto.commit": False,
                "log_level": 0,  # of a network that is held it would say a lot
            }
        )
        self._redis = redis.Redis.from_url(rig.redis.url)  # past the network that a fault holds
        self._behaviour = msgspec.json.Decoder(Behaviour)
        self._profile = msgspec.json.Decoder(UserProfile)
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
        end = self._end(place)
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

    def _end(self, place: TopicPartition) -> int:
        """Asks again while the partition's leader moves: it does after some of the faults."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return self._consumer.get_watermark_offsets(place, timeout=30)[1]
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def of(self, name: str, ledger: Ledger) -> Observed:
        """Returns what the scenario `name` left behind of what its ledger holds."""
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
            history={
                user: self._history(user) for user in {a.user_id for a in ledger.actions.values()}
            },
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
            items={item: self.item_change(item) for item in ledger.items},
            profiles={user: self.profile_change(user) for user in ledger.profiles},
            assignments=[a for a in logs[topics.SEMANTIC_IDS] if a.item_id.startswith(mine)],
        )

    def answered(self, users: list[str]) -> bool:
        """Tells whether each probe user has all that `Traffic.probe` asked for."""
        try:
            for user in users:
                if not (
                    self.as_of_ms(user)
                    and self.item_change(f"{user}-item")
                    and self.profile_change(user)
                ):
                    return False
        except RedisError:
            return False
        rewarded = {event.request_id for part in self.read(topics.REWARDS) for event in part}
        return {f"{user}-request" for user in users} <= rewarded

    def as_of_ms(self, user: str) -> int:
        """Returns the time that the user's instruction in Redis speaks about, 0 without one."""
        return int(cast(bytes | None, self._redis.hget(instruction_key(1, user), "as_of_ms")) or 0)

    def item_change(self, item_id: str) -> int:
        """Returns the number of the change that the item's row is of, 0 without a row."""
        title = cast(bytes | None, self._redis.hget(item_key(item_key_of(item_id)), "title"))
        return number_of(title.decode()) if title else 0

    def profile_change(self, user: str) -> int:
        """Returns the number of the change that the user's profile is of, 0 without one."""
        found = cast(bytes | None, self._redis.get(profile_key(user)))
        return number_of(self._profile.decode(found).city) if found else 0

    def _history(self, user: str) -> list[str]:
        members = cast(list[bytes], self._redis.zrange(f"history:{user}", 0, -1))
        return [self._behaviour.decode(member).event_id for member in members]

    def close(self) -> None:
        """Ends the consumer and the client."""
        self._consumer.close()
        self._redis.close()
