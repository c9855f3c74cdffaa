"""The table `_dqlite_meta` in every database: format version and applied index, one row.

The index is written in the same SQLite transaction as the entry's effects (native/apply.c), so that a database is
exactly the state at its own index. Created the same way everywhere: an empty database has one state hash. Called by
engine.py while no statement of a client runs.
"""

from __future__ import annotations

from typing import Final

import apsw

from dqlite_py.errors import CorruptState, UnknownFormat
from dqlite_py.model import LogIndex
from dqlite_py.storage.sqlerrors import error_from_apsw

META_FORMAT: Final = 1
_CREATE: Final = (
    "BEGIN IMMEDIATE",
    "CREATE TABLE _dqlite_meta (format INTEGER NOT NULL, applied_index INTEGER NOT NULL)",
    f"INSERT INTO _dqlite_meta VALUES ({META_FORMAT}, 0)",
    "COMMIT",
)


def prepare_meta(connection: apsw.Connection, path: str, *, create: bool) -> LogIndex:
    """Create the table in an empty database, then check it; returns the applied index.

    Raises UnknownFormat and CorruptState.
    """
    try:
        if create and not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
            for statement in _CREATE:
                connection.execute(statement)
        return _read(connection, path)
    except apsw.Error as error:
        raise error_from_apsw(error) from error


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
    rows = connection.execute("SELECT applied_index FROM _dqlite_meta").fetchall()
    applied = rows[0][0]
    if type(applied) is not int or not 0 <= applied < 2**63:
        raise CorruptState(
            f"{path} has the applied index {applied!r:.60}",
            file=path,
            expected="an integer from 0",
            found=repr(applied)[:60],
        )
    return LogIndex(applied)
