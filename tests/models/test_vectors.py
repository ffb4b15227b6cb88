"""Vectors on the wire."""

import numpy as np
import pytest

from models.vectors import VectorInvalid, pack, unpack


def test_a_packed_vector_comes_back_rounded_to_fp16_and_stays_the_same_ever_after() -> None:
    vector = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    once = unpack(pack(vector), 64)
    assert once.dtype == np.float32
    np.testing.assert_array_equal(once, vector.astype(np.float16).astype(np.float32))
    assert pack(once) == pack(vector)


def test_bytes_are_little_endian() -> None:
    assert pack(np.array([1.0, -2.0])) == b"\x00\x3c\x00\xc0"


@pytest.mark.parametrize(
    ("data", "dim", "message"),
    [
        (b"\x00", None, "whole number"),
        (b"\x00\x00", 2, "4 bytes"),
        (b"\x00\x7e", 1, "nan at 0"),
        (b"\x00\x00\x00\x7c", 2, "inf at 1"),
    ],
)
def test_broken_bytes_are_refused(data: bytes, dim: int | None, message: str) -> None:
    with pytest.raises(VectorInvalid, match=message):
        unpack(data, dim)


def test_a_number_too_large_for_fp16_is_refused() -> None:
    with pytest.raises(VectorInvalid, match="inf at 1"):
        pack(np.array([0.0, 1e6]))
