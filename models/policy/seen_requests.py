"""The last request ids a trainer has read, as 63-bit hashes: a repeated event teaches nothing."""

from collections import OrderedDict
from hashlib import blake2b

import torch


class SeenRequests:
    """A set that forgets its oldest beyond `capacity`; 100k hashes take 800 kB in a checkpoint."""

    def __init__(self, capacity: int) -> None:
        """Starts empty."""
        self._capacity = capacity
        self._hashes: OrderedDict[int, None] = OrderedDict()

    def add(self, request_id: str) -> bool:
        """Remembers the id; returns whether it is new."""
        digest = blake2b(request_id.encode(), digest_size=8).digest()
        value = int.from_bytes(digest, "big") >> 1
        if value in self._hashes:
            return False
        self._hashes[value] = None
        if len(self._hashes) > self._capacity:
            self._hashes.popitem(last=False)
        return True

    def to_tensor(self) -> torch.Tensor:
        """Returns the hashes, oldest first, int64 [N]."""
        return torch.tensor(list(self._hashes), dtype=torch.int64)

    @classmethod
    def from_tensor(cls, hashes: torch.Tensor, capacity: int) -> "SeenRequests":
        """Returns the set that `to_tensor` wrote."""
        seen = cls(capacity)
        seen._hashes = OrderedDict.fromkeys(hashes.tolist())
        return seen
