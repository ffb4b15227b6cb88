"""safetensors files by numpy alone, against the safetensors library."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.tensor_file import Array, TensorFileInvalid, read_tensors, write_tensors

ARRAYS: dict[str, Array] = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "halves": np.array([1.5, -2.25], dtype=np.float16),
    "keys": np.array([2**62, -1], dtype=np.int64),
    "codes": np.array([[1, 2], [3, 32_767]], dtype=np.int16),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "scalar": np.array(3, dtype=np.int32),
}


def same(found: dict[str, Array]) -> bool:
    return found.keys() == ARRAYS.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array)
        for name, array in ARRAYS.items()
    )


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", ARRAYS, {"made": "here"})
    assert same(load_file(tmp_path / "a.safetensors"))


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "b.safetensors", {"made": "there"})
    assert same(read_tensors(tmp_path / "b.safetensors"))


def test_equal_arrays_give_equal_bytes_whatever_their_order(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", ARRAYS)
    write_tensors(tmp_path / "b", dict(reversed(ARRAYS.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, ARRAYS)
    whole = path.read_bytes()
    for length in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(TensorFileInvalid, match="whole safetensors file"):
            read_tensors(path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {"x": ARRAYS["mask"]})
    with pytest.raises(TensorFileInvalid, match="found x, wanted y"):
        read_tensors(tmp_path / "a", require=("x", "y"))
    with pytest.raises(TensorFileInvalid, match="no file"):
        read_tensors(tmp_path / "b")


def test_a_dtype_the_format_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TensorFileInvalid, match="complex64"):
        write_tensors(tmp_path / "a", {"x": np.zeros(2, dtype=np.complex64)})
