"""User profiles in Redis, as the `users` topic has them."""

import msgspec
import redis.asyncio

from schemas.codec import encode
from schemas.users import UserProfile
from streams.lua_scripts import script
from streams.redis_epoch import Epochs
from streams.redis_keys import EPOCH_KEY, buckets_of, erased_key, profile_key

_profile = msgspec.json.Decoder(UserProfile)


class RedisProfiles:
    """Profiles (`agents.ports.ProfileStore`); the profile writer alone writes them."""

    def __init__(self, client: redis.asyncio.Redis, *, restoring: bool = False) -> None:
        """`restoring`: no epoch is needed to write."""
        self._client = client
        self._restoring = restoring
        self._buckets = buckets_of(client)
        self._epochs = Epochs(client)
        self._unless_erased = client.register_script(script("profile"))

    async def profile(self, user_id: str) -> UserProfile | None:
        """Returns the profile, or None."""
        record = await self._client.get(self._buckets.tag(user_id) + profile_key(user_id))
        return None if record is None else _profile.decode(record)

    async def put(self, profile: UserProfile) -> bool:
        """Stores a profile over the one before, unless it is from before the user's erasure.

        Returns whether it did. Raises redis' errors, for a missing epoch too.
        """
        user_id = profile.user_id
        tag = self._buckets.tag(user_id)
        stored = await self._unless_erased(
            keys=[tag + profile_key(user_id), tag + erased_key(user_id), tag + EPOCH_KEY],
            args=[encode(profile), profile.updated_ms, int(self._restoring)],
        )
        return bool(stored == 1)

    async def remove(self, user_id: str) -> None:
        """Deletes a profile. Raises as `put` does."""
        tag = self._buckets.tag(user_id)
        if not self._restoring:
            await self._epochs.require([tag])
        await self._client.delete(tag + profile_key(user_id))
