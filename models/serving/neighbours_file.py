"""The table of neighbours on disk: one optional file of a generation, and of each of its versions.

A manifest names it with its hash; a file that no manifest names is not read.
"""

import hashlib
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from models.decoding.neighbours import NeighbourConfig, Neighbours, NeighboursInvalid
from models.tensor_file import TensorFileInvalid, read_tensors, write_tensors

FILE_NAME = "neighbours.safetensors"
_ARRAYS = {"item_keys": "int64", "starts": "int64", "places": "int32", "weights": "float32"}
_ASKED_WITH = ("weight", "floor", "decay", "recent")  # one number each


class NeighboursRecord(Struct, frozen=True, kw_only=True):
    """What a generation's manifest says of its table."""

    weight: float
    items: int
    pairs: int
    sha256: str


class _NamesNeighbours(Struct, frozen=True, kw_only=True):
    neighbours: NeighboursRecord | None = None


def save_neighbours(folder: Path, table: Neighbours) -> NeighboursRecord:
    """Writes `neighbours.safetensors` and returns what to say of it."""
    columns = (table.keys_T, table.starts, table.places_E, table.weights_E)
    arrays = dict(zip(_ARRAYS, columns, strict=True))
    for name in _ASKED_WITH:
        arrays[name] = torch.tensor([getattr(table.config, name)], dtype=torch.float64)
    write_tensors(folder / FILE_NAME, {name: tensor.numpy() for name, tensor in arrays.items()})
    return NeighboursRecord(
        weight=table.config.weight,
        items=len(table.keys_T),
        pairs=len(table.places_E),
        sha256=sha256_of(folder / FILE_NAME),
    )


def load_neighbours(folder: Path) -> Neighbours:
    """Returns the table saved in `folder`. Raises `TensorFileInvalid`."""
    path = folder / FILE_NAME
    arrays = read_tensors(path, require=(*_ARRAYS, *_ASKED_WITH))
    for name, dtype in _ARRAYS.items():
        if (array := arrays[name]).ndim != 1 or array.dtype != dtype:
            found = f"{name} of {array.dtype}, shape {array.shape}"
            raise TensorFileInvalid(path=path, found=found, wanted=f"{dtype} [n]")
    keys, starts, places, weights = (torch.from_numpy(arrays[name]) for name in _ARRAYS)
    try:
        weight, floor, decay, recent = (float(arrays[name].item()) for name in _ASKED_WITH)
        return Neighbours(
            keys_T=keys,
            starts=starts,
            places_E=places,
            weights_E=weights,
            config=NeighbourConfig(weight=weight, floor=floor, decay=decay, recent=int(recent)),
        )
    except (NeighboursInvalid, ValueError) as error:
        wanted = "a table of neighbours"
        raise TensorFileInvalid(path=path, found=str(error), wanted=wanted) from error


def neighbours_of_generation(folder: Path) -> Neighbours | None:
    """Returns the table that the generation's manifest names, or None where it names none.

    Raises `TensorFileInvalid` when the file is not that one.
    """
    path = folder / FILE_NAME
    try:
        said = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_NamesNeighbours)
    except (OSError, msgspec.DecodeError) as error:
        wanted = "the generation's manifest beside it"
        raise TensorFileInvalid(path=path, found=str(error), wanted=wanted) from error
    if said.neighbours is None:
        return None
    found = sha256_of(path) if path.is_file() else "no file"
    if found != said.neighbours.sha256:
        raise TensorFileInvalid(path=path, found=found, wanted=f"sha256 {said.neighbours.sha256}")
    return load_neighbours(folder)


def sha256_of(path: Path) -> str:
    """Returns the hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
