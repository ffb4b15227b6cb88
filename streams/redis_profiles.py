"""User profiles in Redis, as the `users` topic has them."""

import msgspec
import redis.asyncio

from schemas.codec import encode
from schemas.users import UserProfile
from streams.lua_scripts import script
from streams.redis_epoch import EPOCH_KEY, require_epoch
from streams.redis_history import erased_key

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
        self._unless_erased = client.register_script(script("profile"))

    async def profile(self, user_id: str) -> UserProfile | None:
        """Returns the profile, or None."""
        record = await self._client.get(profile_key(user_id))
        return None if record is None else _profile.decode(record)

    async def put(self, profile: UserProfile) -> bool:
        """Stores a profile over the one before, unless it is from before the user's erasure.

        Returns whether it did. Raises redis' errors, for a missing epoch too.
        """
        stored = await self._unless_erased(
            keys=[profile_key(profile.user_id), erased_key(profile.user_id), EPOCH_KEY],
            args=[encode(profile), profile.updated_ms, int(self._restoring)],
        )
        return bool(stored == 1)

    async def remove(self, user_id: str) -> None:
        """Deletes a profile. Raises as `put` does."""
        if not self._restoring:
            await require_epoch(self._client)
        await self._client.delete(profile_key(user_id))
