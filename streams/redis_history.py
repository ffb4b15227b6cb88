"""Behaviour by user in Redis: a sorted set by event, and beside it what makes items popular.

To change what makes an item popular: `POPULARITY`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import msgspec
import redis
import redis.asyncio

from schemas.actions import ActionType, UserAction, UserErased
from schemas.behaviour import Behaviour
from schemas.catalog import item_key_of
from schemas.codec import encode
from schemas.topics import DAY_MS, DEAD_LETTERS_MS
from streams.lua_scripts import script
from streams.redis_cluster import RouterCluster, ScriptCall
from streams.redis_keys import (
    EPOCH_KEY,
    buckets_of,
    erased_key,
    history_key,
    popular_key,
    profile_key,
)

POPULARITY: dict[ActionType, int] = {
    ActionType.ORDER: 8,
    ActionType.CART: 4,
    ActionType.FAVORITE: 3,
    ActionType.CLICK: 1,
    ActionType.VIEW: 1,
}
# Entries of one call: Redis answers nobody else for the 7 ms that they take, and the edge waits 10.
AT_ONCE = 1_000
# As long as anything rests that could bring an erased user back: raw actions 7 days, dead letters
# 30, and up to a week more, for a broker only drops whole segments, which it closes once a week.
ERASED_MARKER_MS = DEAD_LETTERS_MS + 7 * DAY_MS

_behaviour = msgspec.json.Decoder(Behaviour)
_packed = msgspec.msgpack.Encoder().encode


def behaviour_of(action: UserAction) -> Behaviour:
    """Returns what history remembers of an action; the same event gives the same bytes."""
    return Behaviour(
        event_id=action.event_id,
        action=action.action,
        event_time_ms=action.event_time_ms,
        item_key=None if action.item_id is None else item_key_of(action.item_id),
        query=action.query,
        scenario=action.scenario,
    )


class RedisHistory:
    """Reads behaviour (`agents.ports.HistoryStore`)."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._buckets = buckets_of(client)

    async def recent(self, user_id: str, count: int) -> list[Behaviour]:
        """Returns the newest `count` actions, oldest first. Raises redis' errors."""
        if count <= 0:
            return []
        key = self._buckets.tag(user_id) + history_key(user_id)
        members = await self._client.zrange(key, -count, -1)
        return [_behaviour.decode(cast(bytes, member)) for member in members]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many actions history did not hold yet, and the clicks that were asked for, by place."""

    fresh: int
    clicks: dict[int, int]


@dataclass(slots=True)
class _BucketsPart:
    """What one bucket's call of the script is given, and whose clicks it is asked for."""

    keys: dict[str, None]  # a set that keeps its order: the epoch is the first
    entries: list[str | int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class PackedCalls(NamedTuple):
    """One round trip: a call for each bucket, and whose clicks each is asked for."""

    calls: list[ScriptCall]
    places: list[list[int]]


class HistoryWriter:
    """Writes a batch of actions and erasures, a thousand in a Lua call; a repeated batch changes
    nothing.

    In a cluster a thousand go in one round trip, with a call for each bucket they have users of.
    """

    def __init__(
        self,
        client: redis.Redis | RouterCluster,
        history_length: int,
        *,
        restoring: bool = False,
    ) -> None:
        """`history_length`: how many actions a user keeps; `restoring`: no epoch is needed."""
        self._call = _caller(client)
        self._buckets = buckets_of(client)
        self._history_length = history_length
        self._restoring = int(restoring)

    def write(
        self, records: Sequence[UserAction | UserErased], counted: Collection[int] = ()
    ) -> Written:
        """Writes records in order. Raises redis' errors: write again.

        `counted`: places of actions in `records`; the answer says for each how many clicks of its
        user on its item history holds up to its time, itself among them. A repeat says the same.
        """
        return self.write_packed(self.pack(records, counted))

    def pack(
        self, records: Sequence[UserAction | UserErased], counted: Collection[int] = ()
    ) -> list[PackedCalls]:
        """Returns the calls of `write`, which another thread can make while this one goes on."""
        asked = frozenset(counted)
        packed = []
        for first in range(0, len(records), AT_ONCE):
            parts = self._parts(records, range(first, min(first + AT_ONCE, len(records))), asked)
            calls = [self._script_call(tag, part) for tag, part in parts.items()]
            packed.append(PackedCalls(calls, [part.places for part in parts.values()]))
        return packed

    def write_packed(self, packed: Sequence[PackedCalls]) -> Written:
        """Writes what `pack` returned; in order, and as often as it takes. Raises redis' errors."""
        fresh = 0
        clicks: dict[int, int] = {}
        for part in packed:
            answers = self._call(part.calls)
            for places, (new, *counts) in zip(part.places, answers, strict=True):
                fresh += int(new)
                clicks.update(zip(places, map(int, counts), strict=True))
        return Written(fresh=fresh, clicks=clicks)

    def _parts(
        self,
        records: Sequence[UserAction | UserErased],
        these: Iterable[int],
        asked: frozenset[int],
    ) -> dict[str, _BucketsPart]:
        """Returns what each bucket is given, by its tag; a user's records keep their order."""
        declared = len(self._buckets.tags) > 1
        parts: dict[str, _BucketsPart] = {}
        tag = self._buckets.tags[0]
        for place in these:
            record = records[place]
            if declared:
                tag = self._buckets.tag(record.user_id)
            part = parts.get(tag)
            if part is None:
                part = parts[tag] = _BucketsPart({tag + EPOCH_KEY: None})
            if declared:
                part.keys.update(dict.fromkeys(_touched(tag, record)))
            if isinstance(record, UserErased):
                part.entries += _erasure(record)
            elif place in asked:
                part.places.append(place)
                part.entries += _entry(record, "c")
            else:
                part.entries += _entry(record, "a")
        return parts

    def _script_call(self, tag: str, part: _BucketsPart) -> ScriptCall:
        arguments = [self._history_length, ERASED_MARKER_MS, self._restoring, tag]
        return ScriptCall(list(part.keys), [*arguments, _packed(part.entries)])


class RedisErasures:
    """Applies an erasure at once, for the edge; the router applies it again, in the log's order."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._buckets = buckets_of(client)
        self._script = client.register_script(script("history"))

    async def apply(self, erased: UserErased) -> None:
        """Drops history and profile and sets the marker. Raises redis' errors: apply it again.

        It needs no epoch: in a Redis that was emptied the marker is as right as in any other.
        """
        tag = self._buckets.tag(erased.user_id)
        await self._script(
            keys=[tag + EPOCH_KEY, *_touched(tag, erased)],
            args=[0, ERASED_MARKER_MS, 1, tag, _packed(_erasure(erased))],
        )


def _caller(
    client: redis.Redis | RouterCluster,
) -> Callable[[Sequence[ScriptCall]], Sequence[Any]]:
    source = script("history")
    if isinstance(client, RouterCluster):
        return lambda calls: client.evaluate(source, calls)
    run = client.register_script(source)
    return lambda calls: [run(keys=call.keys, args=call.arguments) for call in calls]


def _touched(tag: str, record: UserAction | UserErased) -> list[str]:
    """Returns every key that the script may touch for a record, the epoch aside."""
    user_id = record.user_id
    own = [tag + history_key(user_id), tag + erased_key(user_id)]
    if isinstance(record, UserErased):
        return [*own, tag + profile_key(user_id)]
    return [*own, tag + popular_key(record.scenario)]


def _entry(action: UserAction, kind: str) -> tuple[str | int, ...]:
    behaviour = behaviour_of(action)
    return (
        *(kind, action.user_id, action.event_time_ms, encode(behaviour).decode()),
        *(POPULARITY.get(action.action, 0), action.scenario),
        # as text: Lua's numbers are doubles
        "" if behaviour.item_key is None else str(behaviour.item_key),
    )


def _erasure(erased: UserErased) -> tuple[str | int, ...]:
    return ("e", erased.user_id, erased.event_time_ms, "", 0, "", "")
