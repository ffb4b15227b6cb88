"""Every topic in one table: name, key, partitions, retention and cleanup.

Code, manifests and docs follow it.

To add a topic: add its name and its row here, its record in a file beside this one, and the pair to
`RECORDS` in `schemas/codec.py`.
"""

from dataclasses import dataclass, replace
from typing import Literal

DAY_MS = 86_400_000

ACTIONS = "actions"
HIGH_VALUE_ACTIONS = "high-value-actions"
INSTRUCTION_TRIGGERS = "instruction-triggers"
INSTRUCTION_REFRESHES = "instruction-refreshes"
INSTRUCTIONS = "instructions"
IMPRESSIONS = "impressions"
REWARDS = "rewards"
CATALOG = "catalog"
SEMANTIC_IDS = "semantic-ids"
USERS = "users"
POLICIES = "policies"
DEAD_LETTERS = "dead-letters"
# A letter holds what a user did: whoever brings one back must find the user's erasure remembered.
DEAD_LETTERS_MS = 30 * DAY_MS
WINDOW_CHANGELOG = "oxygenrec-window-aggregator-windows-changelog"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One row.

    `scales` False fixes the partition count: the order of the log is the meaning of its offsets.
    """

    name: str
    key: str
    partitions: int
    scales: bool = True
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = 7 * DAY_MS
    append_time: bool = True

    def kafka_config(self) -> dict[str, str]:
        """Returns the broker-side configuration of this topic."""
        config: dict[str, str] = {"cleanup.policy": self.cleanup}
        if self.cleanup == "delete":
            config["retention.ms"] = str(self.retention_ms)
        if self.name == WINDOW_CHANGELOG:
            # A worker that starts reads all of it, 6k records/s: compacted early it stays small.
            config |= {"segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}
        kind = "LogAppendTime" if self.append_time else "CreateTime"
        config["message.timestamp.type"] = kind
        return config


TOPICS: tuple[Topic, ...] = (
    Topic(name=ACTIONS, key="user", partitions=12),
    Topic(name=HIGH_VALUE_ACTIONS, key="user", partitions=12, retention_ms=DAY_MS),
    Topic(name=INSTRUCTION_TRIGGERS, key="user", partitions=12, retention_ms=DAY_MS),
    Topic(name=INSTRUCTION_REFRESHES, key="user", partitions=12, retention_ms=DAY_MS),
    Topic(name=INSTRUCTIONS, key="user", partitions=12, cleanup="compact"),
    Topic(name=IMPRESSIONS, key="user", partitions=12),
    Topic(name=REWARDS, key="request", partitions=1, scales=False),
    Topic(name=CATALOG, key="item", partitions=12, cleanup="compact"),
    Topic(name=SEMANTIC_IDS, key="item", partitions=1, scales=False, cleanup="compact"),
    Topic(name=USERS, key="user", partitions=12, cleanup="compact"),
    Topic(name=POLICIES, key="policy line", partitions=1, scales=False, cleanup="compact"),
    Topic(name=DEAD_LETTERS, key="-", partitions=1, scales=False, retention_ms=DEAD_LETTERS_MS),
    Topic(
        name=WINDOW_CHANGELOG,
        key="window row",
        partitions=12,
        cleanup="compact",
        append_time=False,
    ),
)


def topic_table(partitions: int | None = None) -> tuple[Topic, ...]:
    """Returns the table with `partitions` in place of 12 where a topic scales (tests, demo: 4)."""
    if partitions is None:
        return TOPICS
    return tuple(replace(t, partitions=partitions) if t.scales else t for t in TOPICS)
