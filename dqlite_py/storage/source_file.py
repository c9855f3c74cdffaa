"""An SQLite file of the user's, read to be made a database of a cluster: its schema as steps, its rows in batches.

It is only read. What a cluster cannot hold is refused here, by name, before anything is written: virtual tables, text
that is no UTF-8. Tables of ours, in a dump with them, are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import apsw

from dqlite_py.errors import DataError, InterfaceError, NotSupportedError
from dqlite_py.storage.dump_file import stored_columns
from dqlite_py.storage.sqlerrors import error_from_apsw

_STEPS: Final = 100_000
_ROWID_NAMES: Final = ("_rowid_", "rowid", "oid")
_VALUE_BYTES: Final = 9  # of a number as it travels
_TABLES: Final = (
    "SELECT s.name, s.sql, l.wr FROM sqlite_schema s JOIN pragma_table_list l ON l.name = s.name AND l.schema = 'main' "
    "WHERE s.type = 'table' AND l.type = 'table' AND s.name NOT GLOB '_dqlite_*' AND s.name NOT GLOB 'sqlite_*' "
    "ORDER BY s.rowid"
)
_OTHERS: Final = (
    "SELECT sql FROM sqlite_schema WHERE sql NOT NULL AND type IN ('index', 'trigger', 'view') "
    "AND tbl_name NOT GLOB '_dqlite_*' ORDER BY CASE type WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, rowid"
)


@dataclass(frozen=True, slots=True)
class SourceTable:
    """One table. `insert` takes a row of `select`; `refers_to_itself`: its rows cannot come one by one."""

    name: str
    create: str
    select: str
    insert: str
    columns: tuple[str, ...]  # as both name them, with the rowid where no column is it
    refers_to_itself: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes an equal database, in order: tables with their rows, sequences, `others`, statistics of tables.

    groups: tables whose foreign keys lead from each to each, so that their rows must come at once; most are of one.
    """

    groups: tuple[tuple[SourceTable, ...], ...]
    sequences: tuple[tuple[str, Any], ...]
    others: tuple[str, ...]
    analyzed: tuple[str, ...]
    user_version: int
    application_id: int

    @property
    def tables(self) -> tuple[SourceTable, ...]:
        return tuple(table for group in self.groups for table in group)


class SourceFile:
    """`with SourceFile(path) as source`; raises InterfaceError, OperationalError."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        if not os.path.isfile(self.path):
            raise InterfaceError(f"there is no file {self.path}")
        self.size_bytes = os.path.getsize(self.path)
        if self.size_bytes == 0:  # to SQLite an empty database; to its owner a backup that failed
            raise InterfaceError(f"{self.path} is empty: it is not an SQLite database")
        uri = f"file:{quote(self.path)}?mode=ro"
        try:
            self._connection = apsw.Connection(
                uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs="unix"
            )
            try:
                self._connection.set_progress_handler(lambda: False, _STEPS)  # lets a signal through
                self._connection.execute("BEGIN")
                self._check()
                self.plan = self._read_plan()
            except BaseException:
                self._connection.close()
                raise
        except apsw.NotADBError:
            raise InterfaceError(f"{self.path} is not an SQLite database") from None
        except apsw.ReadOnlyError:
            raise InterfaceError(
                f"{self.path} was left in the middle of a transaction: open it once with sqlite3, which undoes that"
            ) from None
        except apsw.Error as error:
            raise error_from_apsw(error) from error
        if not (self.plan.groups or self.plan.others):
            self._connection.close()
            raise InterfaceError(f"{self.path} holds nothing: was it copied without its -wal file?")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def batches(self, table: SourceTable, bytes_max: int) -> Iterator[tuple[list[tuple[Any, ...]], int]]:
        """Rows of about `bytes_max` at most together, unless one is larger; and their size. Raises DataError."""
        rows: list[tuple[Any, ...]] = []
        size = 0
        try:
            for row in self._connection.execute(table.select):
                length = sum(_size(value) for value in row)
                if rows and size + length > bytes_max:
                    yield rows, size
                    rows, size = [], 0
                rows.append(row)
                size += length
        except UnicodeDecodeError as error:
            raise DataError(f"table {table.name} holds text that is not UTF-8: {error}") from None
        except apsw.Error as error:
            raise error_from_apsw(error) from error
        if rows:
            yield rows, size

    def _check(self) -> None:
        found = self._connection.execute("PRAGMA quick_check(3)").fetchall()
        if found != [("ok",)]:
            lines = "; ".join(str(line) for (line,) in found)
            raise InterfaceError(f"{self.path} is damaged: {lines}")
        names = self._connection.execute(
            "SELECT group_concat(name, ', ') FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'"
        ).fetchall()[0][0]
        if names is not None:
            raise NotSupportedError(
                f"{self.path} has virtual tables, whose contents cannot be taken over: {names}. Drop them in a copy of "
                "the file, and make them anew in the cluster"
            )
        broken = self._connection.execute(
            'SELECT DISTINCT "table", parent FROM pragma_foreign_key_check LIMIT 3'
        ).fetchall()
        if broken:
            which = ", ".join(f"{table} to {parent}" for table, parent in broken)
            raise InterfaceError(f"{self.path} has rows that refer to rows that are not there: {which}")

    def _read_plan(self) -> Plan:
        run = self._connection.execute
        tables = [self._table(str(name), str(sql), bool(wr)) for name, sql, wr in run(_TABLES).fetchall()]
        schema = {str(name) for (name,) in run("SELECT name FROM sqlite_schema")}
        sequences = (
            run("SELECT name, seq FROM sqlite_sequence").fetchall() if "sqlite_sequence" in schema else []
        )
        analyzed = (
            run("SELECT DISTINCT tbl FROM sqlite_stat1 ORDER BY 1").fetchall()
            if "sqlite_stat1" in schema
            else []
        )
        names = {table.name for table in tables}
        return Plan(
            tuple(self._in_groups(tables)),
            tuple((str(name), seq) for name, seq in sequences if name in names),
            tuple(str(sql) for (sql,) in run(_OTHERS).fetchall()),
            tuple(str(name) for (name,) in analyzed if name in names),
            int(self._pragma("user_version")),
            int(self._pragma("application_id")),
        )

    def _pragma(self, name: str) -> Any:
        return self._connection.execute(f"PRAGMA {name}").fetchall()[0][0]

    def _table(self, name: str, sql: str, without_rowid: bool) -> SourceTable:
        columns = stored_columns(self._connection, name)
        named = [quoted(column) for column in columns]
        if not without_rowid and not self._has_rowid_column(name):
            rowid = next((n for n in _ROWID_NAMES if n not in map(str.lower, self._all_columns(name))), None)
            if rowid is None:
                raise NotSupportedError(
                    f"table {name} has columns called rowid, _rowid_ and oid: its rowids cannot be kept"
                )
            named = [rowid, *named]
        marks = ", ".join("?" * len(named))
        listed = ", ".join(named)
        return SourceTable(
            name,
            sql,
            f"SELECT {listed} FROM {quoted(name)}",
            f"INSERT INTO {quoted(name)}({listed}) VALUES ({marks})",
            tuple(named),
            name.lower() in (parent.lower() for parent in self._immediate_parents(name)),
        )

    def _all_columns(self, name: str) -> list[str]:
        sql = "SELECT name FROM pragma_table_xinfo(?)"
        return [str(column) for (column,) in self._connection.execute(sql, (name,))]

    def _has_rowid_column(self, name: str) -> bool:
        """Whether a column is the rowid (INTEGER PRIMARY KEY): then the primary key has no index of its own."""
        keys = self._connection.execute(
            "SELECT type FROM pragma_table_xinfo(?) WHERE pk > 0", (name,)
        ).fetchall()
        if len(keys) != 1 or str(keys[0][0]).upper() != "INTEGER":
            return False
        sql = "SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'"
        return not self._connection.execute(sql, (name,)).fetchall()

    def _immediate_parents(self, name: str) -> list[str]:
        """Tables that this one's foreign keys name. Whether a key is deferred is not to be had: all count."""
        sql = 'SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)'
        return [str(parent) for (parent,) in self._connection.execute(sql, (name,))]

    def _in_groups(self, tables: list[SourceTable]) -> list[tuple[SourceTable, ...]]:
        """Parents before children, else as in the file."""
        waiting = {table.name.lower(): table for table in tables}
        parents = {
            name: {parent.lower() for parent in self._immediate_parents(table.name)} - {name}
            for name, table in waiting.items()
        }
        groups: list[tuple[SourceTable, ...]] = []
        while waiting:
            ready = [{name} for name in waiting if not parents[name] & waiting.keys()]
            # Who leads to the fewest leads only to such as lead back.
            for names in ready or [min((_reached(name, parents, waiting) for name in waiting), key=len)]:
                groups.append(tuple(table for name, table in waiting.items() if name in names))
                for name in names:
                    del waiting[name]
        return groups


def _reached(start: str, parents: dict[str, set[str]], among: dict[str, SourceTable]) -> set[str]:
    found: set[str] = set()
    left = {start}
    while left:
        found |= left
        left = {parent for name in left for parent in parents[name] if parent in among} - found
    return found


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _size(value: Any) -> int:
    return _VALUE_BYTES if value is None or isinstance(value, (int, float)) else len(value) + _VALUE_BYTES
