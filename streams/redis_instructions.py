"""The instruction in force by generation and user: the newest window wins (Lua compare-and-set)."""

from typing import cast

import msgspec
import redis.asyncio

from schemas.codec import encode
from schemas.instructions import ReasoningInstruction
from streams.lua_scripts import script
from streams.redis_keys import EPOCH_KEY, buckets_of, erased_key, instruction_key

EXPIRES_MS = 36 * 3_600_000  # FLOW, guarantee 4: then it is stale, and the learnable default serves

_record = msgspec.json.Decoder(ReasoningInstruction)


class RedisInstructions:
    """Reads and writes instructions (`agents.ports.InstructionStore`)."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        expires_ms: int = EXPIRES_MS,
        *,
        restoring: bool = False,
    ) -> None:
        """`restoring`: no epoch is needed to write."""
        self._client = client
        self._buckets = buckets_of(client)
        self._expires_ms = expires_ms
        self._restoring = int(restoring)
        self._compare_and_set = client.register_script(script("instruction"))

    async def read(self, generation: int, user_id: str) -> ReasoningInstruction | None:
        """Returns the instruction in force; one from before an erasure counts as none."""
        tag = self._buckets.tag(user_id)
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.hget(tag + instruction_key(generation, user_id), "record")
            pipeline.get(tag + erased_key(user_id))
            record, erased = await pipeline.execute()
        if record is None:
            return None
        made = _record.decode(record)
        return made if erased is None or made.after_erasure_ms == int(erased) else None

    async def erased_ms(self, user_id: str) -> int | None:
        """Returns the time of the user's erasure while its marker stands."""
        marker = await self._client.get(self._buckets.tag(user_id) + erased_key(user_id))
        return None if marker is None else int(cast(bytes, marker))

    async def write(self, instruction: ReasoningInstruction, age_ms: int = 0) -> bool:
        """Stores it unless one as new is there or the user was erased since; returns if it did.

        `age_ms`: how long ago it was first stored. Raises redis' errors, for a missing epoch too.
        """
        user_id = instruction.user_id
        tag = self._buckets.tag(user_id)
        key = tag + instruction_key(instruction.generation, user_id)
        stored = await self._compare_and_set(
            keys=[key, tag + erased_key(user_id), tag + EPOCH_KEY],
            args=[
                *(encode(instruction), instruction.as_of_ms),
                *(self._expires_ms - age_ms, self._restoring),
                "" if instruction.after_erasure_ms is None else instruction.after_erasure_ms,
            ],
        )
        return bool(stored == 1)
