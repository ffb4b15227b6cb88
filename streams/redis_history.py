"""Behaviour by user in Redis: a sorted set by event, and beside it what makes items popular.

To change what makes an item popular: `POPULARITY`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import redis
import redis.asyncio

from schemas.actions import ActionType, UserAction, UserErased
from schemas.behaviour import Behaviour
from schemas.catalog import item_key_of
from schemas.codec import encode
from schemas.topics import DAY_MS, DEAD_LETTERS_MS
from streams.lua_scripts import script

POPULARITY: dict[ActionType, int] = {
    ActionType.ORDER: 8,
    ActionType.CART: 4,
    ActionType.FAVORITE: 3,
    ActionType.CLICK: 1,
    ActionType.VIEW: 1,
}
# As long as anything rests that could bring an erased user back: raw actions 7 days, dead letters
# 30, and up to a week more, for a broker only drops whole segments, which it closes once a week.
ERASED_MARKER_MS = DEAD_LETTERS_MS + 7 * DAY_MS

_behaviour = msgspec.json.Decoder(Behaviour)


def history_key(user_id: str) -> str:
    """Returns the key of a user's sorted set."""
    return f"history:{user_id}"


def erased_key(user_id: str) -> str:
    """Returns the key of the marker that stops late writes."""
    return f"erased:{user_id}"


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

    async def recent(self, user_id: str, count: int) -> list[Behaviour]:
        """Returns the newest `count` actions, oldest first. Raises redis' errors."""
        if count <= 0:
            return []
        members = await self._client.zrange(history_key(user_id), -count, -1)
        return [_behaviour.decode(cast(bytes, member)) for member in members]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many actions history did not hold yet, and the clicks that were asked for, by place."""

    fresh: int
    clicks: dict[int, int]


class HistoryWriter:
    """Writes a batch of actions and erasures in one Lua call; a repeated batch changes nothing."""

    def __init__(
        self, client: redis.Redis, history_length: int, *, restoring: bool = False
    ) -> None:
        """`history_length`: how many actions a user keeps; `restoring`: no epoch is needed."""
        self._script = client.register_script(script("history"))
        self._history_length = history_length
        self._restoring = int(restoring)

    def write(
        self, records: Sequence[UserAction | UserErased], counted: Collection[int] = ()
    ) -> Written:
        """Writes records in order. Raises redis' errors: write again.

        `counted`: places of actions in `records`; the answer says for each how many clicks of its
        user on its item history holds up to its time, itself among them. A repeat says the same.
        """
        if not records:
            return Written(fresh=0, clicks={})
        places = sorted(counted)
        asked = set(places)
        arguments: list[Any] = [self._history_length, ERASED_MARKER_MS, self._restoring]
        for place, record in enumerate(records):
            if isinstance(record, UserErased):
                arguments += _erasure(record)
            else:
                arguments += _entry(record, "c" if place in asked else "a")
        fresh, *clicks = self._script(args=arguments)
        return Written(fresh=int(fresh), clicks=dict(zip(places, map(int, clicks), strict=True)))


class RedisErasures:
    """Applies an erasure at once, for the edge; the router applies it again, in the log's order."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._script = client.register_script(script("history"))

    async def apply(self, erased: UserErased) -> None:
        """Drops history and profile and sets the marker. Raises redis' errors: apply it again.

        It needs no epoch: in a Redis that was emptied the marker is as right as in any other.
        """
        await self._script(args=[0, ERASED_MARKER_MS, 1, *_erasure(erased)])


def _entry(action: UserAction, kind: str) -> tuple[Any, ...]:
    behaviour = behaviour_of(action)
    return (
        *(kind, action.user_id, action.event_time_ms, encode(behaviour)),
        *(POPULARITY.get(action.action, 0), action.scenario),
        "" if behaviour.item_key is None else behaviour.item_key,
    )


def _erasure(erased: UserErased) -> tuple[Any, ...]:
    return ("e", erased.user_id, erased.event_time_ms, "", "", "", "")
