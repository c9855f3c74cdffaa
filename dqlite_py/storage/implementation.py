"""Which apply engine this process uses, C or Python: DQLITE_PY_IMPL, read once at import (nativelib.py).

The functions here pass on to the one chosen; the rest of storage calls them and no engine by name. Any thread.
"""

from __future__ import annotations

import apsw

from dqlite_py import nativelib
from dqlite_py.limits import RESULT_BYTES_MAX
from dqlite_py.storage.engine_api import STATEMENTS_MAX, ApplyEngine, Implementation, Which


def implementation(name: str) -> Implementation:
    """The implementation "c" or "python"; only its own modules are imported. Raises ImportError."""
    if name == "python":
        from dqlite_py.storage.python_engine.binding import IMPLEMENTATION

        return IMPLEMENTATION
    from dqlite_py.storage import native_engine

    return native_engine.IMPLEMENTATION


_chosen = implementation(nativelib.IMPLEMENTATION)


def chosen() -> Implementation:
    """This process's implementation."""
    return _chosen


def vfs_name() -> str:
    """Bind the implementation to apsw's SQLite; returns the name of the VFS for every connection of ours."""
    _chosen.bootstrap()
    return _chosen.vfs_name


def start_engine(
    connection: apsw.Connection, *, statements_max: int = STATEMENTS_MAX, results_max: int = RESULT_BYTES_MAX
) -> ApplyEngine:
    """The writer of one database, on an open connection of the VFS; raises InternalError, and ApplyFailed when its
    table of client sessions is damaged."""
    return _chosen.engine(connection, statements_max=statements_max, results_max=results_max)


def file_size(connection: apsw.Connection, which: Which) -> int:
    """Size in bytes of the file of a connection of this VFS; a WAL that was never opened has none."""
    return _chosen.file_size(connection, which)


def file_read(connection: apsw.Connection, which: Which, offset: int, size: int) -> bytes:
    """Read exactly `size` bytes without a file descriptor of our own; raises InternalError."""
    return _chosen.file_read(connection, which, offset, size)


def file_sync(connection: apsw.Connection, which: Which) -> None:
    """Make the file's content durable; raises InternalError."""
    _chosen.file_sync(connection, which)


def inspect(connection: apsw.Connection, sql: bytes) -> tuple[int, bool, str]:
    """Prepare without executing: (SQLite code, is read-only, message). Any thread that owns `connection`."""
    return _chosen.inspect(connection, sql)


def refusal(sql: bytes) -> str | None:
    """Why the first words of `sql` bar it from the log, or None."""
    return _chosen.refusal(sql)


def hash_pages(data: bytes | bytearray | memoryview, page_size: int, first_number: int) -> int:
    """Xor of the hashes of consecutive pages; `data` is whole pages."""
    return _chosen.hash_pages(data, page_size, first_number)
