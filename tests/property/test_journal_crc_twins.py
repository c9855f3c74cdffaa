"""C and Python CRC32C agree on everything, whole or in parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dqlite_py import nativelib

_, in_c = nativelib.choose("c")
_, in_python = nativelib.choose("python")


@given(data=st.binary(max_size=300), seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 300))
def test_twins_agree(data: bytes, seed: int, cut: int) -> None:
    whole = in_python(data, seed)
    assert in_c(data, seed) == whole
    view = memoryview(data)
    assert in_c(view[cut:], in_c(view[:cut], seed)) == whole
