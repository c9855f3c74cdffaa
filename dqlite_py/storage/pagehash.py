"""State hash of a database file that no connection has open (a received copy, a copy just made).

Never for a live file: closing the descriptor would drop SQLite's locks in this process. A live database knows its
hash (engine.py). Any thread; reads in chunks, the hashing itself is the implementation's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dqlite_py.errors import CorruptState
from dqlite_py.limits import MIB
from dqlite_py.storage import implementation

CHUNK_BYTES: Final = 1 * MIB
HEADER_BYTES: Final = 100
MAGIC: Final = b"SQLite format 3\x00"


def hash_pages(data: bytes | bytearray | memoryview, page_size: int, first_number: int) -> int:
    """Xor of the hashes of consecutive whole pages; the first one has number `first_number` (1-based)."""
    if len(data) % page_size or not 512 <= page_size <= 65536 or page_size & (page_size - 1):
        raise ValueError(f"{len(data)} bytes are not whole pages of {page_size}")
    return implementation.hash_pages(data, page_size, first_number)


def scan_file(path: str, rest: Callable[[int], None] | None = None) -> tuple[int, int]:
    """Return (state hash, pages) of a checkpointed database file; raises CorruptState or OSError.

    `rest` may wait after so many bytes.
    """
    with open(path, "rb") as file:
        page_size = _page_size(file.read(HEADER_BYTES), path)
        file.seek(0)
        state, pages = 0, 0
        while chunk := file.read(CHUNK_BYTES):
            if len(chunk) % page_size:
                raise CorruptState(
                    f"{path} does not end at a page boundary",
                    file=path,
                    expected=f"whole pages of {page_size} bytes",
                    found=pages * page_size + len(chunk),
                )
            state ^= hash_pages(chunk, page_size, pages + 1)
            pages += len(chunk) // page_size
            if rest is not None:
                rest(len(chunk))
    return state, pages


def _page_size(header: bytes, path: str) -> int:
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    if (
        len(header) < HEADER_BYTES
        or not header.startswith(MAGIC)
        or page_size < 512
        or page_size & (page_size - 1)
    ):
        raise CorruptState(
            f"{path} is not an SQLite database",
            file=path,
            expected="an SQLite header",
            found=header[:18].hex(),
        )
    return page_size
