"""Data folders of nodes, looked at as files: what they hold to the byte, and damage to them."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Of each file below: digest, size, time of its last change. Equal: nothing was changed."""
    found: dict[str, tuple[str, int, int]] = {}
    for path in sorted(folder.rglob("*")):
        stat = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        size = stat.st_size if path.is_file() else 0
        found[path.relative_to(folder).as_posix()] = (digest, size, stat.st_mtime_ns)
    return found


def flip(path: Path, *offsets: int) -> None:
    """Change a bit of the bytes at these offsets (negative: from the end)."""
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 0x10
    path.write_bytes(data)
