"""Writes and reads safetensors files with numpy alone, so that an agent without torch can load an
artifact.

The format: 8 bytes of little-endian header length, a JSON header {name: {dtype, shape,
data_offsets}}, the rows' bytes. Files written here are read by the `safetensors` library and the
other way round (a test does both).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import OxygenRecError

Array = npt.NDArray[Any]

_DTYPES: dict[str, str] = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
_NAMES = {np.dtype(code).name: name for name, code in _DTYPES.items()}
_ALIGNMENT = 8  # the data begins at a multiple of this, so that a reader may map it


class TensorFileInvalid(OxygenRecError):
    """A file that is not the tensor file its reader needs."""

    def __init__(self, *, path: Path, found: str, wanted: str) -> None:
        self.path = path
        self.found = found
        self.wanted = wanted
        super().__init__(f"{path}: found {found}, wanted {wanted}; write the file again")


def write_tensors(
    path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `arrays` to `path` and flushes them to the disk; the caller renames where it must be
    atomic.

    Raises `TensorFileInvalid` for a dtype that the format cannot hold.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    blobs: list[bytes] = []
    position = 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        if array.dtype.name not in _NAMES:
            raise TensorFileInvalid(
                path=path, found=f"{name} of {array.dtype}", wanted=f"one of {', '.join(_NAMES)}"
            )
        dtype = _NAMES[array.dtype.name]
        blob = array.astype(_DTYPES[dtype], copy=False).tobytes()
        span = [position, position + len(blob)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        blobs.append(blob)
        position += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(blobs)
        file.flush()
        os.fsync(file.fileno())


def read_tensors(path: Path, *, require: tuple[str, ...] = ()) -> dict[str, Array]:
    """Returns every array of the file. Raises `TensorFileInvalid` when it is broken or lacks one of
    `require`.
    """
    if not path.is_file():
        raise TensorFileInvalid(path=path, found="no file", wanted="a safetensors file")
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start])
        arrays = {
            name: _array(data, start, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TensorFileInvalid(
            path=path, found=f"{len(data)} bytes, {error}", wanted="a whole safetensors file"
        ) from error
    if missing := [name for name in require if name not in arrays]:
        raise TensorFileInvalid(
            path=path, found=", ".join(arrays) or "no tensors", wanted=", ".join(missing)
        )
    return arrays


def _array(data: bytes, start: int, entry: Mapping[str, Any]) -> Array:
    first, last = entry["data_offsets"]
    flat = np.frombuffer(data[start + first : start + last], dtype=_DTYPES[entry["dtype"]])
    return flat.reshape(entry["shape"]).copy()
