"""Every key of Redis, and which of them lie together.

One server, or the master that sentinels name, is one bucket, and its keys are bare: `history:ann`.
In a cluster every key of a user or an item lies in one of 16 buckets and begins with its hash tag:
`{43}history:ann`. A bucket has one slot, so one script may change all of it, and it has an `epoch`
of its own, which is lost with the rest of its master's memory and moves with its slot.

16 is how many masters can share the work. More would make the router's batches small and the sums
of popularity many: each bucket counts for itself (`RedisItems.popular`). The number and the hash
are part of the keys: to change them, empty the cluster and run `oxygenrec restore`.
"""

from dataclasses import dataclass
from zlib import crc32

import redis.asyncio.cluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from streams.redis_cluster import RouterCluster

BUCKETS = 16
EPOCH_KEY = "epoch"


@dataclass(frozen=True, slots=True)
class Buckets:
    """What the keys of each bucket begin with."""

    tags: tuple[str, ...]

    def tag(self, name: str) -> str:
        """Returns what the keys of a user id or an item key begin with."""
        if len(self.tags) == 1:
            return self.tags[0]
        return self.tags[crc32(name.encode()) % len(self.tags)]


def even_tags(buckets: int) -> tuple[str, ...]:
    """Returns hash tags whose slots lie one in each equal part of all slots.

    Masters have slots in equal ranges at first, so each gets its share of the buckets, give or
    take one.
    """
    by_part: dict[int, str] = {}
    number = 0
    while len(by_part) < buckets:
        tag = f"{{{number}}}"
        part = key_slot(tag.encode()) * buckets // REDIS_CLUSTER_HASH_SLOTS
        by_part.setdefault(part, tag)
        number += 1
    return tuple(by_part[part] for part in range(buckets))


ONE_SERVER = Buckets(("",))
CLUSTER = Buckets(even_tags(BUCKETS))


def buckets_of(client: object) -> Buckets:
    """Returns the buckets of what a client is connected to."""
    clusters = (redis.asyncio.cluster.RedisCluster, RouterCluster)
    return CLUSTER if isinstance(client, clusters) else ONE_SERVER


def history_key(user_id: str) -> str:
    """Returns the key of a user's sorted set, without its bucket's tag (as all of these)."""
    return f"history:{user_id}"


def erased_key(user_id: str) -> str:
    """Returns the key of the marker that stops late writes."""
    return f"erased:{user_id}"


def profile_key(user_id: str) -> str:
    """Returns the key of a user's profile."""
    return f"profile:{user_id}"


def instruction_key(generation: int, user_id: str) -> str:
    """Returns the key of the hash that holds one user's instruction."""
    return f"instruction:{generation}:{user_id}"


def item_key(key: int) -> str:
    """Returns the key of an item's hash."""
    return f"item:{key}"


def popular_key(scenario: str) -> str:
    """Returns the key of what a bucket's users made popular in a scenario."""
    return f"popular:{scenario}"
