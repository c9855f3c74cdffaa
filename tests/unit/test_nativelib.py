"""The front door to C and Python twins."""

from __future__ import annotations

import sys

import pytest

from dqlite_py import nativelib

VECTORS = [  # RFC 3720 appendix B.4, and the usual check value
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"", 0),
]


@pytest.mark.parametrize("name", ["c", "python"])
def test_known_values(name: str) -> None:
    chosen, crc32c = nativelib.choose(name)
    assert chosen == name
    for data, expected in VECTORS:
        assert crc32c(data) == expected
        assert crc32c(bytearray(data)) == expected
        assert crc32c(memoryview(b"x" + data + b"x")[1:-1]) == expected


def test_the_default_is_c() -> None:
    assert nativelib.choose("")[0] == "c"
    assert nativelib.IMPLEMENTATION in ("c", "python")


def test_other_names_are_refused() -> None:
    with pytest.raises(ImportError, match="must be 'c' or 'python'"):
        nativelib.choose("rust")


def test_a_missing_extension_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dqlite_py._native", None)
    with pytest.raises(ImportError, match="pip install -e"):
        nativelib.choose("c")
    assert nativelib.choose("python")[0] == "python"
