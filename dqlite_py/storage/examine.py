"""What a database's files hold, found out on a copy: sound or not, its applied index, its state hash.

SQLite cannot open a database with a write-ahead log without writing beside it, so the files are copied to a scratch
folder first, and the log is moved into the copy. Called by offline tools, never for files that a node has open.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import apsw

from dqlite_py.errors import StorageFull
from dqlite_py.limits import MIB
from dqlite_py.model import LogIndex
from dqlite_py.storage.meta import read_index
from dqlite_py.storage.pagehash import scan_file
from dqlite_py.storage.sqlerrors import error_from_apsw

PROBLEMS_MAX: Final = 100  # of one database; a file full of damage would name each page
_STEPS: Final = 100_000  # of SQLite's machine between two looks at whether to go on
_COPY_BYTES: Final = 4 * MIB

Advanced = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """What a copy showed. `problems` are damage, `notes` are what an owner may want to know; None: not to be had."""

    name: str
    size_bytes: int
    wal_bytes: int
    applied_index: LogIndex | None
    state_hash: int | None
    page_count: int | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def files_size(path: str) -> tuple[int, int]:
    """Bytes of a database's file and of its -wal; raises OSError for the first."""
    try:
        wal = os.path.getsize(path + "-wal")
    except FileNotFoundError:
        wal = 0
    return os.path.getsize(path), wal


def copy_database(path: str, target: str, advanced: Advanced | None = None) -> None:
    """Copy a database's file and its -wal, neither of which anybody writes; raises StorageFull, OSError."""
    sizes = files_size(path)
    free = os.statvfs(os.path.dirname(target))
    if sum(sizes) > free.f_bavail * free.f_frsize:
        raise StorageFull(
            f"{os.path.dirname(target)} has no room for a copy of {path} ({sum(sizes)} bytes)", file=target
        )
    _copy(path, target, advanced)
    if sizes[1]:
        _copy(path + "-wal", target + "-wal", advanced)


def examine_database(
    path: str, name: str, scratch: str, *, quick: bool = False, advanced: Advanced | None = None
) -> DatabaseReport:
    """Examine the database at `path`; `scratch`: an existing folder with room for a copy, left empty.

    quick: without SQLite's check of every row and index. advanced: hears the bytes copied.
    Raises StorageFull, OSError: then nothing is known.
    """
    target = os.path.join(scratch, "copy.db")
    size, wal = files_size(path)
    try:
        copy_database(path, target, advanced)
        problems, notes, index = _open_and_check(target, quick)
        state, pages = None, None
        if not problems:
            state, pages = scan_file(target)
        return DatabaseReport(name, size, wal, index, state, pages, tuple(problems), tuple(notes))
    finally:
        remove_files(target)


def settle_copy(path: str) -> None:
    """Make a copied database one file: its -wal moved into it; raises OperationalError."""
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            connection.close()
    except apsw.Error as error:
        raise error_from_apsw(error) from error


def remove_files(path: str) -> None:
    """Remove a database that nobody has open, with what SQLite leaves beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def _copy(source: str, target: str, advanced: Advanced | None) -> None:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        while chunk := reader.read(_COPY_BYTES):
            writer.write(chunk)
            if advanced is not None:
                advanced(len(chunk))


def _open_and_check(target: str, quick: bool) -> tuple[list[str], list[str], LogIndex | None]:
    problems: list[str] = []
    notes: list[str] = []
    index: LogIndex | None = None
    try:
        connection = apsw.Connection(target, flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
        try:
            connection.set_progress_handler(lambda: False, _STEPS)  # lets a signal through
            index = _read_meta(connection, problems)
            _check(connection, quick, problems, notes)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            connection.close()
    except apsw.Error as error:
        problems.append(f"SQLite cannot read it: {error}")
    return problems, notes, index


def _read_meta(connection: apsw.Connection, problems: list[str]) -> LogIndex | None:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = '_dqlite_meta'").fetchall():
        problems.append("it is no database of a node: table _dqlite_meta is missing")
        return None
    index = read_index(connection)
    if index is None:
        problems.append("it has no sound applied index")
    return index


def _check(connection: apsw.Connection, quick: bool, problems: list[str], notes: list[str]) -> None:
    check = "quick_check" if quick else "integrity_check"
    for (line,) in connection.execute(f"PRAGMA {check}({PROBLEMS_MAX})"):
        if line != "ok":
            problems.append(str(line))
    if problems:
        return
    rows = connection.execute('SELECT "table", count(*) FROM pragma_foreign_key_check GROUP BY 1').fetchall()
    notes += [f"{count} rows of table {table} refer to rows that are not there" for table, count in rows]
