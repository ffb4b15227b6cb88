"""Rows that are only appended to, without a copy of those before.

A view of the first N rows stays as it is while further rows are written behind it. Of two growths
of one view the second takes a copy: the room behind it is taken.

N rows, X further ones.
"""

from dataclasses import dataclass
from typing import Self

import torch

ROOM = 8  # a copy leaves an eighth more: untouched pages take no memory, a row is copied 9 times


@dataclass(slots=True)
class _Buffer:
    """Memory for more rows than are written."""

    rows: torch.Tensor
    written: int


@dataclass(frozen=True, slots=True)
class GrowingRows:
    """`rows_N` [N, ..]: read-only for whoever shares it."""

    rows_N: torch.Tensor
    _buffer: _Buffer

    @classmethod
    def of(cls, rows_N: torch.Tensor) -> Self:
        """Takes rows as they are: the first `appended` copies them."""
        return cls(rows_N, _Buffer(rows_N, len(rows_N)))

    def appended(self, rows_X: torch.Tensor) -> Self:
        """Returns these rows and further ones. O(X), but for a copy of all at times."""
        count, length = len(self.rows_N), len(self.rows_N) + len(rows_X)
        buffer = self._buffer
        if buffer.written != count or len(buffer.rows) < length:
            rows = self.rows_N.new_empty(length + length // ROOM, *self.rows_N.shape[1:])
            rows[:count] = self.rows_N
            buffer = _Buffer(rows, count)
        buffer.rows[count:length] = rows_X
        buffer.written = length
        return type(self)(buffer.rows[:length], buffer)
