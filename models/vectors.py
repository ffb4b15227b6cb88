"""Vectors on the wire: little-endian fp16. Whoever trains on a vector sees the numbers that were
served.
"""

import numpy as np
import numpy.typing as npt

from schemas.errors import OxygenRecError

WIRE = np.dtype("<f2")


class VectorInvalid(OxygenRecError):
    """Bytes or numbers that are not a finite fp16 vector."""

    def __init__(self, *, found: str, wanted: str) -> None:
        self.found = found
        self.wanted = wanted
        super().__init__(f"vector: found {found}, wanted {wanted}")


def pack(vector: npt.NDArray[np.floating]) -> bytes:
    """Returns the vector as fp16 bytes. Raises `VectorInvalid` when one is not finite as fp16."""
    with np.errstate(over="ignore"):  # an overflow becomes inf, which is refused below
        rounded = np.asarray(vector).reshape(-1).astype(WIRE)
    _check_finite(rounded)
    return rounded.tobytes()


def unpack(data: bytes, dim: int | None = None) -> npt.NDArray[np.float32]:
    """Returns the numbers as float32 [dim]. Raises `VectorInvalid` for another length or a NaN."""
    if len(data) % WIRE.itemsize or (dim is not None and len(data) != dim * WIRE.itemsize):
        wanted = f"{dim * WIRE.itemsize} bytes" if dim is not None else "a whole number of fp16"
        raise VectorInvalid(found=f"{len(data)} bytes", wanted=wanted)
    values = np.frombuffer(data, dtype=WIRE)
    _check_finite(values)
    return values.astype(np.float32)


def _check_finite(values: npt.NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise VectorInvalid(found=f"{values[place]} at {place}", wanted="finite fp16 numbers")
