"""Keys to partitions as Java does it (murmur2): every producer puts a user in one place."""

from functools import lru_cache

SEED = 0x9747B28C
MULTIPLIER = 0x5BD1E995
MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Returns Kafka's 32-bit murmur2 of the key, unsigned."""
    length = len(key)
    hashed = SEED ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * MULTIPLIER & MASK
        word = (word ^ (word >> 24)) * MULTIPLIER & MASK
        hashed = (hashed * MULTIPLIER & MASK) ^ word
    if length > whole:
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * MULTIPLIER & MASK
    hashed = (hashed ^ (hashed >> 13)) * MULTIPLIER & MASK
    return hashed ^ (hashed >> 15)


@lru_cache(maxsize=65_536)  # the router asks for every action; users come back
def partition_of(key: bytes, partitions: int) -> int:
    """Returns the partition of a key: Java's `toPositive(murmur2(key)) % partitions`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
