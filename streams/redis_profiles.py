"""User profiles in Redis, as the `users` topic has them."""

import msgspec
import redis.asyncio

from schemas.codec import encode
from schemas.users import UserProfile

_profile = msgspec.json.Decoder(UserProfile)


def profile_key(user_id: str) -> str:
    """Returns the key of a user's profile."""
    return f"profile:{user_id}"


class RedisProfiles:
    """Profiles (`agents.ports.ProfileStore`); the profile writer alone writes them."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def profile(self, user_id: str) -> UserProfile | None:
        """Returns the profile, or None."""
        record = await self._client.get(profile_key(user_id))
        return None if record is None else _profile.decode(record)

    async def put(self, profile: UserProfile) -> None:
        """Stores a profile over the one before."""
        await self._client.set(profile_key(profile.user_id), encode(profile))

    async def remove(self, user_id: str) -> None:
        """Deletes a profile."""
        await self._client.delete(profile_key(user_id))
