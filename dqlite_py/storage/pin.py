"""A database held still at one applied index, and copied from there while writes go on.

`pin` runs on the database's apply thread between two SQL commits: a read transaction of its own then sees
exactly that state, whatever is written or checkpointed later. Copying is left to a worker thread, through
SQLite's backup API: it reads through its own pager, so no descriptor of the live file is opened and closed
here (closing one would drop the process's POSIX locks). SQLite adds one to the copy's schema cookie; the
state hash leaves those bytes out. While a pin is open the WAL cannot be reset: close it soon.

It does not choose the moment, and does not compare hashes across nodes. Called by node.snapshot_source.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import apsw

from dqlite_py.errors import CorruptState, InternalError, OperationalError, SnapshotUnavailable, StorageFull
from dqlite_py.limits import SNAPSHOT_COPY_PAGES
from dqlite_py.model import LogIndex
from dqlite_py.ports import Disk
from dqlite_py.storage.meta import read_index
from dqlite_py.storage.pagehash import scan_file
from dqlite_py.storage.sealedfile import storage_full

_READ_ONLY: Final = apsw.SQLITE_OPEN_READONLY
_CREATE: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


class PinnedDatabase:
    """One pinned state. `copy_to` and `close` may run on another thread than `pin`, one at a time."""

    def __init__(
        self,
        connection: apsw.Connection,
        name: str,
        applied_index: int,
        state_hash: int,
        page_count: int,
        page_bytes: int,
    ) -> None:
        self._connection = connection
        self.name = name
        self.applied_index = LogIndex(applied_index)
        self.state_hash = state_hash
        self.page_count = page_count
        self.page_bytes = page_bytes

    @property
    def size_bytes(self) -> int:
        return self.page_count * self.page_bytes

    def copy_to(
        self,
        path: str,
        *,
        disk: Disk,
        durable: bool = False,
        advanced: Callable[[int], None] | None = None,
        stopping: Callable[[], bool] | None = None,
        rest: Callable[[int], None] | None = None,
    ) -> None:
        """Write the pinned state as one file at `path`, which must not exist, and prove its state hash.

        `advanced` hears the bytes of each step; `stopping` is asked between; `rest` may wait after so many bytes were
        copied and synced, or read. No file is left on an error.
        Raises StorageFull, SnapshotUnavailable (stopped), CorruptState (this node's own file is not what its
        engine says), OperationalError.
        """
        if disk.exists(path):
            raise InternalError(f"{path} exists already")
        try:
            self._copy(path, disk, advanced, stopping, rest)
            self._check(path, rest)
            if durable:
                _sync(disk, path)
        except BaseException:
            if disk.exists(path):
                disk.unlink(path)
            raise

    def close(self) -> None:
        """End the read transaction. Idempotent."""
        self._connection.close()

    def _copy(
        self,
        path: str,
        disk: Disk,
        advanced: Callable[[int], None] | None,
        stopping: Callable[[], bool] | None,
        rest: Callable[[int], None] | None,
    ) -> None:
        try:
            target = apsw.Connection(path, flags=_CREATE, vfs="unix")
            fd: int | None = None
            try:
                # A torn copy is thrown away, so neither a journal nor SQLite's own syncs are needed.
                for pragma in ("journal_mode=off", "synchronous=off", "locking_mode=exclusive"):
                    target.execute("PRAGMA " + pragma).fetchall()
                with target.backup("main", self._connection, "main") as backup:
                    copied = 0
                    while not backup.done:
                        if stopping is not None and stopping():
                            raise SnapshotUnavailable("the node is stopping")
                        backup.step(SNAPSHOT_COPY_PAGES)
                        now = backup.page_count - backup.remaining
                        size = (now - copied) * self.page_bytes
                        copied = now
                        if fd is None:
                            fd = disk.open(path)
                        # Dirty pages that pile up would hold up the journal's next fdatasync.
                        disk.fdatasync(fd)
                        if advanced is not None:
                            advanced(size)
                        if rest is not None:
                            rest(size)
            finally:
                target.close()
                if fd is not None:
                    disk.close(fd)  # AFTER SQLite's: closing it drops the locks of both
        except apsw.Error as error:
            raise _translate(error, path, f"copying database {self.name}") from error
        except OSError as error:
            raise storage_full(error, path) or error from error

    def _check(self, path: str, rest: Callable[[int], None] | None) -> None:
        found_hash, found_pages = scan_file(path, rest)
        if (found_hash, found_pages) != (self.state_hash, self.page_count):
            raise CorruptState(
                f"the copy of database {self.name} at log index {self.applied_index} has state hash "
                f"{found_hash:016x} and {found_pages} pages, the engine says {self.state_hash:016x} and "
                f"{self.page_count}: the database file of this node is damaged",
                file=path,
                expected=f"{self.state_hash:016x}",
                found=f"{found_hash:016x}",
            )


def pin(path: str, *, name: str, applied_index: int, state_hash: int) -> PinnedDatabase:
    """Pin the state that the engine says stands at `applied_index`; call between two SQL commits.

    Takes well under a millisecond. Raises InternalError when the file stands elsewhere, OperationalError.
    """
    try:
        connection = apsw.Connection(path, flags=_READ_ONLY, vfs="unix")
        try:
            connection.execute("BEGIN")
            found = read_index(connection)
            pages, page_bytes = _pragma(connection, "page_count"), _pragma(connection, "page_size")
            if found != applied_index:
                raise InternalError(
                    f"database {name} stands at {found} where its engine says log index {applied_index}"
                )
            return PinnedDatabase(connection, name, applied_index, state_hash, pages, page_bytes)
        except BaseException:
            connection.close()
            raise
    except apsw.Error as error:
        raise _translate(error, path, f"pinning database {name}") from error


def read_applied_index(path: str) -> LogIndex:
    """Read the applied index of a closed single-file copy; creates no -wal or -shm. Raises CorruptState."""
    try:
        uri = f"file:{quote(path)}?immutable=1"
        connection = apsw.Connection(uri, flags=_READ_ONLY | apsw.SQLITE_OPEN_URI, vfs="unix")
        try:
            found = read_index(connection)
        finally:
            connection.close()
    except apsw.Error as error:
        raise CorruptState(
            f"{path} is not a database of this package: {error}",
            file=path,
            expected="an applied index",
            found=str(error),
        ) from error
    if found is None:
        raise CorruptState(
            f"{path} has no sound applied index", file=path, expected="one integer", found="none or several"
        )
    return found


def _pragma(connection: apsw.Connection, name: str) -> int:
    value = connection.execute("PRAGMA " + name).fetchall()[0][0]
    assert isinstance(value, int)
    return value


def _sync(disk: Disk, path: str) -> None:
    """Make a finished copy and its directory entry durable. No SQLite connection has it open any more."""
    fd = disk.open(path)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)
    disk.fsync_dir(os.path.dirname(path))


def _translate(error: apsw.Error, path: str, doing: str) -> OperationalError:
    full = isinstance(error, apsw.FullError) or (
        isinstance(error, apsw.IOError) and "space" in str(error).lower()
    )
    if full:
        return StorageFull(f"no space left while {doing}: free space and try again", file=path)
    return OperationalError(
        f"{doing} failed: {error}", code=getattr(error, "extendedresult", None), file=path
    )
