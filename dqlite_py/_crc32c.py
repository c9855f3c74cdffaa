"""CRC32C (Castagnoli) in Python: the reference twin of the C version, for tests and DQLITE_PY_IMPL=python.

Pure, thread-safe; called through nativelib only. Semantics as zlib.crc32: `seed` is the CRC of what came
before.
"""

from __future__ import annotations

from typing import Final

_POLYNOMIAL: Final = 0x82F63B78  # reflected 0x1EDC6F41, RFC 3720 appendix B.4


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE: Final = _make_table()


def crc32c(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """Return the CRC32C of `data` continued from `seed` (0 <= result < 2**32)."""
    table = _TABLE
    crc = seed ^ 0xFFFFFFFF
    for byte in bytes(data):
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF
