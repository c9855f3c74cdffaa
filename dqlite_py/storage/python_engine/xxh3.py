"""XXH3, 64 bits, with a seed, for inputs above 240 bytes (pages): native/vendor/xxhash.h in plain Python.

The accumulators only add within a block of 1024 bytes, so that a block's sums come from a few calls of `sum` and
`map` over slices instead of a loop over stripes. `page_hash.py` prefers the `xxhash` package when it is installed.
"""

from __future__ import annotations

from functools import lru_cache
from operator import mul
from struct import Struct
from typing import Final

INPUT_BYTES_MIN: Final = 241  # shorter ones have algorithms of their own

_MASK: Final = 2**64 - 1
_PRIME32_1: Final = 0x9E3779B1
PRIME64_1: Final = 0x9E3779B185EBCA87
_START: Final = (
    0xC2B2AE3D,
    PRIME64_1,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x85EBCA77,
    0x27D4EB2F165667C5,
    _PRIME32_1,
)
SECRET: Final = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_STRIPE: Final = 64
_BLOCK: Final = 1024  # 16 stripes, each of which moves 8 bytes further in the secret
_STRIPES: Final = _BLOCK // _STRIPE
_SECRET_WORDS: Final = Struct("<24Q")
_EIGHT_WORDS: Final = Struct("<8Q")
_SCRAMBLE_AT: Final = len(SECRET) - _STRIPE
_LAST_AT: Final = len(SECRET) - _STRIPE - 7
_MERGE_AT: Final = 11


@lru_cache(maxsize=4096)  # by page number: the pages written most are few
def _secret(seed: int) -> bytes:
    words = _SECRET_WORDS.unpack(SECRET)
    return _SECRET_WORDS.pack(
        *((word + seed if i % 2 == 0 else word - seed) & _MASK for i, word in enumerate(words))
    )


@lru_cache(maxsize=4096)
def _block_secret(seed: int) -> int:
    """What a block's bytes are xored with."""
    secret = _secret(seed)
    return int.from_bytes(b"".join(secret[8 * n : 8 * n + _STRIPE] for n in range(_STRIPES)), "little")


def _mixed(data: bytes, secret: int) -> list[int]:
    """What the stripes of `data` (a block or its beginning) add to each of the eight accumulators."""
    size = len(data)
    keys = (int.from_bytes(data, "little") ^ secret & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    halves = Struct(f"<{size // 4}I").unpack(keys)
    words = Struct(f"<{size // 8}Q").unpack(data)
    return [
        sum(words[i ^ 1 :: 8]) + sum(map(mul, halves[2 * i :: 16], halves[2 * i + 1 :: 16])) for i in range(8)
    ]


def fold(left: int, right: int) -> int:
    product = left * right
    return (product ^ product >> 64) & _MASK


def xxh3_64(data: bytes, seed: int) -> int:
    """XXH3_64bits_withSeed of more than 240 bytes; 0 <= seed < 2**64."""
    size = len(data)
    if size < INPUT_BYTES_MIN:
        raise ValueError(f"{size} bytes: not fewer than {INPUT_BYTES_MIN}")
    secret, block_secret = _secret(seed), _block_secret(seed)
    scramble = _EIGHT_WORDS.unpack_from(secret, _SCRAMBLE_AT)
    accumulators = list(_START)
    blocks = (size - 1) // _BLOCK
    for block in range(blocks):
        added = _mixed(data[block * _BLOCK : (block + 1) * _BLOCK], block_secret)
        for i in range(8):
            mixed = (accumulators[i] + added[i]) & _MASK
            accumulators[i] = ((mixed ^ mixed >> 47 ^ scramble[i]) * _PRIME32_1) & _MASK
    start = blocks * _BLOCK
    stripes = (size - 1 - start) // _STRIPE
    rest = _mixed(data[start : start + stripes * _STRIPE], block_secret)
    last = _mixed(data[-_STRIPE:], int.from_bytes(secret[_LAST_AT : _LAST_AT + _STRIPE], "little"))
    accumulators = [(a + b + c) & _MASK for a, b, c in zip(accumulators, rest, last, strict=True)]
    merge = _EIGHT_WORDS.unpack_from(secret, _MERGE_AT)
    result = size * PRIME64_1
    for i in range(0, 8, 2):
        result += fold(accumulators[i] ^ merge[i], accumulators[i + 1] ^ merge[i + 1])
    result &= _MASK
    result ^= result >> 37
    result = result * 0x165667919E3779F9 & _MASK
    return result ^ result >> 32
