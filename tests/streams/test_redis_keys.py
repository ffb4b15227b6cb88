"""Keys and buckets: one server's keys are bare, a cluster's lie evenly and together."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from streams.redis_keys import (
    BUCKETS,
    CLUSTER,
    EPOCH_KEY,
    ONE_SERVER,
    erased_key,
    history_key,
    instruction_key,
    profile_key,
)


def test_one_servers_keys_are_bare() -> None:
    assert ONE_SERVER.tag("ann") + history_key("ann") == "history:ann"
    assert ONE_SERVER.tag("ann") + EPOCH_KEY == "epoch"


def test_a_clusters_keys_are_those_that_clusters_hold_by_now() -> None:
    """Whoever changes this makes every cluster lose what it holds: `oxygenrec restore`."""
    assert CLUSTER.tag("ann") + history_key("ann") == "{43}history:ann"
    assert CLUSTER.tag("4611686018427387904") == "{12}"
    first, last = CLUSTER.tags[0], CLUSTER.tags[-1]
    assert (len(CLUSTER.tags), first, last) == (16, "{10}", "{40}")


@given(st.text("a{}:é1", min_size=1, max_size=12))
def test_the_keys_of_a_user_lie_in_one_slot_with_an_epoch_whatever_the_id(user: str) -> None:
    tag = CLUSTER.tag(user)
    names = [history_key(user), erased_key(user), profile_key(user), instruction_key(7, user)]
    slots = {key_slot((tag + name).encode()) for name in [*names, EPOCH_KEY]}
    assert len(slots) == 1
    assert tag in CLUSTER.tags


@pytest.mark.parametrize("masters", [3, 4, 5, 6, 8, 16])
def test_equal_ranges_of_slots_hold_equally_many_buckets(masters: int) -> None:
    slots = [key_slot(tag.encode()) for tag in CLUSTER.tags]
    held = Counter(slot * masters // REDIS_CLUSTER_HASH_SLOTS for slot in slots)
    assert sorted(held) == list(range(masters))
    assert max(held.values()) - min(held.values()) <= 2


def test_users_are_spread_over_all_buckets() -> None:
    held = Counter(CLUSTER.tag(f"user-{number}") for number in range(16_000))
    assert len(held) == BUCKETS
    assert min(held.values()) > 900
