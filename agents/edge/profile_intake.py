"""Takes profiles and erasures in: Kafka's acknowledgement before anything is said to be taken.

An erasure goes in band, before anything else: `UserErased` on `actions`, then tombstones where a
compacted topic keeps something of the user, then Redis at once. Each step may be repeated: a client
that gets a 503 sends the request again.
"""

from collections.abc import Callable
from typing import Protocol

from agents.edge.acknowledgement import Acknowledged
from agents.edge.http_bodies import checked_id
from agents.edge.profile_api import (
    ErasureAnswer,
    merged,
    patch_of,
    profile_of,
)
from agents.ports import ProfileStore
from schemas import topics
from schemas.actions import UserErased
from schemas.users import UserProfile

COMPACTED = (topics.USERS, topics.INSTRUCTIONS)  # keyed by user: a tombstone each


class ErasureStore(Protocol):
    """Where an erasure takes effect before the router has read it."""

    async def apply(self, erased: UserErased) -> None:
        """Drops what is held of the user and marks the user, so that late writes are refused."""
        ...


class ProfileIntake:
    """One user a call; a repeat changes nothing."""

    def __init__(
        self,
        *,
        acknowledged: Acknowledged,
        profiles: ProfileStore,
        erasures: ErasureStore,
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._acknowledged = acknowledged
        self._profiles = profiles
        self._erasures = erasures
        self._now_ms = now_ms
        self._new_id = new_id

    async def put(self, user_id: str, body: bytes) -> UserProfile:
        """Returns the profile as it was sent. Raises `InvalidRecord`, `NotAcknowledged`."""
        return await self._sent(profile_of(checked_id("user_id", user_id), body, self._now_ms()))

    async def patch(self, user_id: str, body: bytes) -> UserProfile:
        """Returns what Redis holds with the changes, as it was sent. Raises redis' errors too.

        Two patches within the profile writer's delay both see the older profile: the later one
        keeps nothing of the first.
        """
        patch = patch_of(body)
        known = await self._profiles.profile(checked_id("user_id", user_id))
        return await self._sent(merged(user_id, known, patch, self._now_ms()))

    async def erase(self, user_id: str) -> ErasureAnswer:
        """Erases a user, known or not. Raises `InvalidRecord`, `NotAcknowledged`, redis' errors."""
        erased = UserErased(
            event_id=self._new_id(),
            user_id=checked_id("user_id", user_id),
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
