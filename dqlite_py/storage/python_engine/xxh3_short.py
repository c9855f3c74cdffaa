"""XXH3, 64 bits, without a seed, for inputs of 9 to 240 bytes: native/vendor/xxhash.h in plain Python."""

from __future__ import annotations

from typing import Final

from dqlite_py.storage.python_engine.xxh3 import PRIME64_1, SECRET, fold

INPUT_BYTES_MIN: Final = 9
_MASK: Final = 2**64 - 1
_SECRET_MIN: Final = 136


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _mix(data: bytes, at: int, secret_at: int) -> int:
    return fold(
        _word(data, at) ^ _word(SECRET, secret_at), _word(data, at + 8) ^ _word(SECRET, secret_at + 8)
    )


def _avalanche(value: int) -> int:
    value &= _MASK
    value = (value ^ value >> 37) * 0x165667919E3779F9 & _MASK
    return value ^ value >> 32


def _up_to_16(data: bytes) -> int:
    low = _word(data, 0) ^ _word(SECRET, 24) ^ _word(SECRET, 32)
    high = _word(data, len(data) - 8) ^ _word(SECRET, 40) ^ _word(SECRET, 48)
    swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
    return len(data) + swapped + high + fold(low, high)


def _up_to_128(data: bytes) -> int:
    size = len(data)
    total = size * PRIME64_1
    for i in range((size - 1) // 32 + 1):
        total += _mix(data, 16 * i, 32 * i) + _mix(data, size - 16 - 16 * i, 32 * i + 16)
    return total


def _up_to_240(data: bytes) -> int:
    size = len(data)
    total = _avalanche(size * PRIME64_1 + sum(_mix(data, 16 * i, 16 * i) for i in range(8)))
    total += sum(_mix(data, 16 * i, 16 * (i - 8) + 3) for i in range(8, size // 16))
    return total + _mix(data, size - 16, _SECRET_MIN - 17)


def xxh3_64_short(data: bytes) -> int:
    """XXH3_64bits of 9 to 240 bytes."""
    if not INPUT_BYTES_MIN <= len(data) <= 240:
        raise ValueError(f"{len(data)} bytes: not {INPUT_BYTES_MIN} to 240")
    return _avalanche(
        (_up_to_16 if len(data) <= 16 else _up_to_128 if len(data) <= 128 else _up_to_240)(data)
    )
