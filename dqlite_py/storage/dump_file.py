"""A copy of a database made into what its owner would have without a cluster, and its contents as SQL.

A copy holds tables of ours, and says that it is in WAL mode, so that even a reader must write beside it. Called by
offline tools, on files that nobody else has open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import apsw

from dqlite_py.errors import CorruptState
from dqlite_py.model import LogIndex
from dqlite_py.storage.meta import read_index
from dqlite_py.storage.sqlerrors import error_from_apsw

_STEPS: Final = 100_000
_OURS: Final = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '_dqlite_*' ORDER BY name"
_TABLES: Final = (
    "SELECT name, sql FROM sqlite_schema WHERE sql NOT NULL AND type = 'table' AND name NOT GLOB '_dqlite_*' "
    "AND name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow') ORDER BY rowid"
)
_OTHERS: Final = (
    "SELECT sql FROM sqlite_schema WHERE sql NOT NULL AND type IN ('index', 'trigger', 'view') "
    "AND tbl_name NOT GLOB '_dqlite_*' ORDER BY type = 'trigger', rowid"
)


def make_plain(path: str, *, keep_internal: bool = False) -> LogIndex:
    """Turn the copy at `path` into a plain SQLite file, alone and durable; returns the log index of its state.

    keep_internal: leave the tables _dqlite_… in it. Raises CorruptState, OperationalError, OSError.
    """
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
        try:
            connection.set_progress_handler(lambda: False, _STEPS)  # lets a signal through
            index = read_index(connection)
            if index is None:
                raise CorruptState(
                    f"{path} has no sound applied index",
                    file=path,
                    expected="one integer",
                    found="none or several",
                )
            if connection.pragma("journal_mode", "delete") != "delete":
                raise CorruptState(f"{path} cannot leave WAL mode", file=path, expected="delete", found="wal")
            if not keep_internal:
                connection.pragma("secure_delete", True)  # nothing of them stays in free pages
                with connection:
                    for (name,) in _texts(connection, _OURS):
                        connection.execute(f"DROP TABLE {_quoted(name)}")
        finally:
            connection.close()
    except apsw.Error as error:
        raise error_from_apsw(error) from error
    _sync(path)
    return index


def write_sql(path: str, write: Callable[[str], object]) -> None:
    """Hand the contents of the database at `path` to `write`, as lines of SQL that make an equal one.

    Equal but for rowids that no column names. Raises OperationalError.
    """
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY, vfs="unix")
        try:
            connection.set_progress_handler(lambda: False, _STEPS)
            connection.execute("BEGIN")
            for line in _lines(connection):
                write(line + "\n")
        finally:
            connection.close()
    except apsw.Error as error:
        raise error_from_apsw(error) from error


def _lines(connection: apsw.Connection) -> Iterator[str]:
    yield "PRAGMA foreign_keys=OFF;"
    yield "BEGIN TRANSACTION;"
    sequences = statistics = False
    for name, sql in _texts(connection, _TABLES):
        if name == "sqlite_sequence":
            sequences = True
        elif name.startswith("sqlite_stat"):
            statistics = True
        elif not name.startswith("sqlite_"):
            yield f"{sql};"
            yield from _rows(connection, name)
    if sequences:
        yield "DELETE FROM sqlite_sequence;"
        yield from _rows(connection, "sqlite_sequence")
    for (sql,) in _texts(connection, _OTHERS):
        yield f"{sql};"
    for name in ("user_version", "application_id"):
        if value := connection.pragma(name):
            yield f"PRAGMA {name}={value};"
    yield "COMMIT;"
    if statistics:
        yield "ANALYZE;"


def _rows(connection: apsw.Connection, table: str) -> Iterator[str]:
    columns = stored_columns(connection, table)
    values = " || ',' || ".join(_literal(_quoted(name)) for name in columns)
    names = ",".join(map(_quoted, columns))
    into = _text(f"INSERT INTO {_quoted(table)}({names}) VALUES(")
    for (line,) in connection.execute(f"SELECT {into} || {values} || ');' FROM {_quoted(table)}"):
        yield str(line)


def _texts(connection: apsw.Connection, sql: str) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in connection.execute(sql)]


def _literal(column: str) -> str:
    """SQL that gives a value as SQL; quote() ends a text at its first NUL."""
    return (
        f"CASE WHEN typeof({column}) = 'text' AND instr({column}, char(0)) "
        f"THEN 'CAST(x''' || hex({column}) || ''' AS TEXT)' ELSE quote({column}) END"
    )


def stored_columns(connection: apsw.Connection, table: str) -> list[str]:
    """The columns that an INSERT may give: neither generated nor hidden ones."""
    found: list[Any] = connection.execute(
        "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid", (table,)
    ).fetchall()
    return [name for (name,) in found]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _sync(path: str) -> None:
    for target in (path, os.path.dirname(os.path.abspath(path))):
        fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
