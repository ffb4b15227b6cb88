"""Takes profiles and erasures in: Kafka's acknowledgement before anything is said to be taken.

An erasure goes in band, before anything else: `UserErased` on `actions`, then tombstones where a
compacted topic keeps something of the user, then Redis at once. Each step may be repeated: a client
that gets a 503 sends the request again.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from msgspec import Struct

from agents.edge.profile_api import (
    ErasureAnswer,
    checked_user_id,
    merged,
    patch_of,
    profile_of,
)
from agents.ports import ProfileStore
from schemas import topics
from schemas.actions import UserErased
from schemas.errors import OxygenRecError
from schemas.users import UserProfile
from streams.producer import Delivered, UndeliveredRecord

COMPACTED = (topics.USERS, topics.INSTRUCTIONS)  # keyed by user: a tombstone each


class NotAcknowledged(OxygenRecError):
    """Kafka did not acknowledge a request in time; it may be there all the same."""

    def __init__(self, *, topic: str, user_id: str, waited_ms: int) -> None:
        self.topic = topic
        self.user_id = user_id
        super().__init__(
            f"{topic}: found no acknowledgement for user {user_id} within {waited_ms} ms;"
            " send the request again, a repeat changes nothing"
        )


class ErasureStore(Protocol):
    """Where an erasure takes effect before the router has read it."""

    async def apply(self, erased: UserErased) -> None:
        """Drops what is held of the user and marks the user, so that late writes are refused."""
        ...


class ProfileIntake:
    """`send` produces one record (None: a tombstone) to a topic under a user's key."""

    def __init__(
        self,
        *,
        send: Callable[[str, Struct | None, str], Future[Delivered]],
        profiles: ProfileStore,
        erasures: ErasureStore,
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
        acknowledge_ms: int,
    ) -> None:
        self._send = send
        self._profiles = profiles
        self._erasures = erasures
        self._now_ms = now_ms
        self._new_id = new_id
        self._acknowledge_ms = acknowledge_ms

    async def put(self, user_id: str, body: bytes) -> UserProfile:
        """Returns the profile as it was sent. Raises `InvalidRecord`, `NotAcknowledged`."""
        return await self._sent(profile_of(checked_user_id(user_id), body, self._now_ms()))

    async def patch(self, user_id: str, body: bytes) -> UserProfile:
        """Returns what Redis holds with the changes, as it was sent. Raises redis' errors too.

        Two patches within the profile writer's delay both see the older profile: the later one
        keeps nothing of the first.
        """
        patch = patch_of(body)
        known = await self._profiles.profile(checked_user_id(user_id))
        return await self._sent(merged(user_id, known, patch, self._now_ms()))

    async def erase(self, user_id: str) -> ErasureAnswer:
        """Erases a user, known or not. Raises `InvalidRecord`, `NotAcknowledged`, redis' errors."""
        erased = UserErased(
            event_id=self._new_id(),
            user_id=checked_user_id(user_id),
            event_time_ms=self._now_ms(),
        )
        await self._acknowledged(topics.ACTIONS, erased, user_id)
        for topic in COMPACTED:
            await self._acknowledged(topic, None, user_id)
        await self._erasures.apply(erased)
        return ErasureAnswer(
            user_id=user_id, event_id=erased.event_id, erased_ms=erased.event_time_ms
        )

    async def _sent(self, profile: UserProfile) -> UserProfile:
        await self._acknowledged(topics.USERS, profile, profile.user_id)
        return profile

    async def _acknowledged(self, topic: str, record: Struct | None, user_id: str) -> None:
        sent = asyncio.wrap_future(self._send(topic, record, user_id))
        try:
            await asyncio.wait_for(sent, self._acknowledge_ms / 1_000)
        except (TimeoutError, UndeliveredRecord) as error:
            raise NotAcknowledged(
                topic=topic, user_id=user_id, waited_ms=self._acknowledge_ms
            ) from error
