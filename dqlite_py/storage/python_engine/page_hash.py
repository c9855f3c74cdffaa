"""The state hash: page_hash.c."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dqlite_py.storage.python_engine.xxh3 import xxh3_64

PAGE_SIZE_MAX: Final = 65536


def _installed_xxh3() -> Callable[[bytes, int], int] | None:
    try:
        import xxhash
    except ImportError:
        return None
    digest: Callable[[bytes, int], int] = xxhash.xxh3_64_intdigest
    return digest


_hash: Final = _installed_xxh3() or xxh3_64


def page_hash(page: bytes, number: int) -> int:
    """Hash of one page, 0 for a page of zeros."""
    if not page.strip(b"\0"):
        return 0
    if number == 1:
        page = page[:24] + bytes(4) + page[28:40] + bytes(4) + page[44:92] + bytes(8) + page[100:]
    return _hash(page, number)


def hash_pages(data: bytes | bytearray | memoryview, page_size: int, first_number: int) -> int:
    """Xor of the hashes of consecutive whole pages; the first one has number `first_number` (1-based)."""
    state = 0
    for number, start in enumerate(range(0, len(data), page_size), first_number):
        state ^= page_hash(bytes(data[start : start + page_size]), number)
    return state


class Pages:
    """Frames are collected while SQLite writes them; they count only when the SQL commit has succeeded."""

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, page_size: int) -> None:
        """Forget everything and prepare for a scan."""
        self.page_size = page_size
        self.state = 0
        self._hashes: list[int] = []  # by page number - 1
        self.discard()

    @property
    def page_count(self) -> int:
        return len(self._hashes)

    def scan(self, data: bytes) -> None:
        """Take in the next pages of the file."""
        for start in range(0, len(data), self.page_size):
            found = page_hash(data[start : start + self.page_size], len(self._hashes) + 1)
            self._hashes.append(found)
            self.state ^= found

    def note(self, number: int, page: bytes, commit_pages: int) -> None:
        """Note a frame; `commit_pages` is not 0 in a commit frame."""
        self._changed.append((number, page_hash(page, number)))
        self._new_page_count = commit_pages

    def commit(self) -> None:
        count, hashes = self._new_page_count, self._hashes
        if count:
            hashes.extend([0] * (count - len(hashes)))
            for number, found in self._changed:
                if number <= count:
                    self.state ^= hashes[number - 1] ^ found
                    hashes[number - 1] = found
            for dropped in hashes[count:]:
                self.state ^= dropped
            del hashes[count:]
        self.discard()

    def discard(self) -> None:
        self._changed: list[tuple[int, int]] = []
        self._new_page_count = 0
