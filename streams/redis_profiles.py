"""User profiles in Redis, as the `users` topic has them."""

import msgspec
import redis.asyncio

from schemas.codec import encode
from schemas.users import UserProfile
from streams.redis_epoch import require_epoch

_profile = msgspec.json.Decoder(UserProfile)


def profile_key(user_id: str) -> str:
    """Returns the key of a user's profile."""
    return f"profile:{user_id}"


class RedisProfiles:
    """Profiles (`agents.ports.ProfileStore`); the profile writer alone writes them."""

    def __init__(self, client: redis.asyncio.Redis, *, restoring: bool = False) -> None:
        """`restoring`: no epoch is needed to write."""
        self._client = client
        self._restoring = restoring

    async def profile(self, user_id: str) -> UserProfile | None:
        """Returns the profile, or None."""
        record = await self._client.get(profile_key(user_id))
        return None if record is None else _profile.decode(record)

    async def put(self, profile: UserProfile) -> None:
        """Stores a profile over the one before. Raises redis' errors, `EpochMissing` among them."""
        if not self._restoring:
            await require_epoch(self._client)
        await self._client.set(profile_key(profile.user_id), encode(profile))

    async def remove(self, user_id: str) -> None:
        """Deletes a profile. Raises as `put` does."""
        if not self._restoring:
            await require_epoch(self._client)
        await self._client.delete(profile_key(user_id))
