"""The tables of a database that say where it stands: `_dqlite_meta`, one row, and `_dqlite_sessions`.

`_dqlite_meta` holds the format version and the applied index, written in the same SQLite transaction as the entry's
effects (native/apply.c), so that a database is exactly the state at its own index. An entry that leaves a row in
`_dqlite_sessions` (native/sessions.h) does not write it: the newer of both counts. At first both depend on the OPEN
alone, so that an empty database has one state hash at its index. Called by engine.py and pin.py while no statement of a
client runs.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import apsw

from dqlite_py.errors import CorruptState, UnknownFormat
from dqlite_py.model import LogIndex
from dqlite_py.storage.sqlerrors import error_from_apsw

META_FORMAT: Final = 1
_CREATE: Final = "CREATE TABLE _dqlite_meta (format INTEGER NOT NULL, applied_index INTEGER NOT NULL)"
_INSERT: Final = "INSERT INTO _dqlite_meta VALUES (?, ?)"
_CREATE_SESSIONS: Final = (  # as the engines would, were there no horizon
    "CREATE TABLE _dqlite_sessions (log_index INTEGER PRIMARY KEY, now_us INTEGER NOT NULL, results BLOB NOT NULL)"
)
_HORIZON: Final = "INSERT INTO _dqlite_sessions (log_index, now_us, results) VALUES (0, 0, ?)"
_SEQUENCE_MAX: Final = 2**63 - 1


class MadeBy(NamedTuple):
    """The OPEN that makes a database: its log index, by which no state of an earlier life is taken for one of this,
    and its log time."""

    log_index: int = 0
    now_us: int = 0


UNKNOWN_MAKER: Final = MadeBy()


def prepare_meta(
    connection: apsw.Connection, path: str, *, create: bool, made_by: MadeBy = UNKNOWN_MAKER
) -> LogIndex:
    """Create the tables in an empty database, then check them; returns the applied index.

    The OPEN is the first entry that it holds, and its log time the horizon (docs/decisions/0011): a key from before is
    of a write to a database of that name that was dropped, and must not take effect in this one.

    Raises UnknownFormat and CorruptState.
    """
    try:
        if create and not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
            _create(connection, made_by)
        return _read(connection, path)
    except apsw.Error as error:
        raise error_from_apsw(error) from error


def _create(connection: apsw.Connection, made_by: MadeBy) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_CREATE)
    connection.execute(_INSERT, (META_FORMAT, made_by.log_index))
    if made_by.now_us > 0:
        connection.execute(_CREATE_SESSIONS)
        connection.execute(_HORIZON, (min(made_by.now_us, _SEQUENCE_MAX).to_bytes(8, "big"),))
    connection.execute("COMMIT")


def _read(connection: apsw.Connection, path: str) -> LogIndex:
    columns = connection.execute("SELECT name FROM pragma_table_info('_dqlite_meta') ORDER BY cid").fetchall()
    if ("format",) not in columns:
        raise CorruptState(
            f"{path} is not a database of this package",
            file=path,
            expected="table _dqlite_meta",
            found="a database without it",
        )
    formats = connection.execute("SELECT format FROM _dqlite_meta").fetchall()
    if formats != [(META_FORMAT,)]:
        raise UnknownFormat(
            f"{path} has database format {formats!r:.60}, which is not known to this release (it knows {META_FORMAT})",
            file=path,
            version=repr(formats)[:60],
        )
    applied = read_index(connection)
    if applied is None:
        raise CorruptState(
            f"{path} has no sound applied index",
            file=path,
            expected="an integer from 0",
            found=repr(_indexes(connection))[:60],
        )
    return applied


def read_index(connection: apsw.Connection) -> LogIndex | None:
    """The applied index, None when there is not exactly one sound one; raises apsw.Error."""
    found = _indexes(connection)
    if len(found) != 1:
        return None
    for index in found[0]:
        if type(index) is not int or not 0 <= index < 2**63:
            return None
    return LogIndex(max(found[0]))


def _indexes(connection: apsw.Connection) -> list[tuple[Any, ...]]:
    """[(applied index of _dqlite_meta, newest log index of _dqlite_sessions)]"""
    look = "SELECT 1 FROM sqlite_schema WHERE name = '_dqlite_sessions'"
    newest = (
        "ifnull((SELECT max(log_index) FROM _dqlite_sessions), 0)"
        if connection.execute(look).fetchall()
        else "0"
    )
    return connection.execute(f"SELECT applied_index, {newest} FROM _dqlite_meta").fetchall()
