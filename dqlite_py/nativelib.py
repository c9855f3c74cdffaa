"""One door to the C extension's small functions and their Python twins, chosen once at import.

DQLITE_PY_IMPL=c (the default) needs the built extension and says so when it is missing: a silent fallback
would turn a packaging mistake into a slow node. DQLITE_PY_IMPL=python takes the twins. Callers cannot tell
them apart. Any thread. What only exists in C (virtual file system, apply) is not here: storage loads that
itself.
"""

from __future__ import annotations

import os
from typing import Final, Protocol, TypeAlias

from dqlite_py import _crc32c

Buffer: TypeAlias = bytes | bytearray | memoryview


class Crc32c(Protocol):
    def __call__(self, data: Buffer, seed: int = 0) -> int:
        """Return the CRC32C of `data` (one-dimensional, of bytes) continued from `seed`."""
        ...


def choose(name: str) -> tuple[str, Crc32c]:
    """Return (implementation, crc32c) for a value of DQLITE_PY_IMPL; raises ImportError."""
    if name == "python":
        return "python", _crc32c.crc32c
    if name not in ("", "c"):
        raise ImportError(f"DQLITE_PY_IMPL is {name!r}: it must be 'c' or 'python'")
    return "c", _load_c()


def _load_c() -> Crc32c:
    try:
        from dqlite_py._native import ffi, lib
    except ImportError as error:
        raise ImportError(
            f"the C extension dqlite_py._native cannot be loaded ({error}); build it with `pip install -e "
            f".`, "
            "or set DQLITE_PY_IMPL=python to run without it (slower)"
        ) from error
    native = lib.dq_crc32c
    from_buffer = ffi.from_buffer

    def crc32c_c(data: Buffer, seed: int = 0) -> int:
        return int(native(seed, data if type(data) is bytes else from_buffer(data), len(data)))

    return crc32c_c


_chosen = choose(os.environ.get("DQLITE_PY_IMPL", ""))
IMPLEMENTATION: Final = _chosen[0]
crc32c: Final = _chosen[1]
