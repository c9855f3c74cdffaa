"""Engines whose changes are kept, and a plain copy that is kept up to date by the stream of changes alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dqlite_py.changes import ROWID, Change, ChangeKind
from dqlite_py.errors import InterfaceError
from dqlite_py.limits import CHANGES_KEEP_BYTES
from dqlite_py.ports import Disk, SystemDisk
from dqlite_py.storage.changelog.cursor import Cursor
from dqlite_py.storage.changelog.log import ChangeLog
from dqlite_py.storage.engine_api import FOLLOW_SQL
from dqlite_py.storage.readers import ReaderPool
from tests.support.engines import Database

FOLLOW = [(FOLLOW_SQL, [])]
TABLES = (
    "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    " AND name NOT LIKE 'sqlite%' AND name NOT LIKE '\\_dqlite%' ESCAPE '\\'"
)


class FollowedDatabase(Database):
    """An engine with a change log; entry 1 turns it on."""

    def __init__(
        self, path: Path, *, keep_bytes: int = CHANGES_KEEP_BYTES, disk: Disk | None = None, **options: Any
    ) -> None:
        super().__init__(path, **options)
        self.disk = disk or SystemDisk()
        self.keep_bytes = keep_bytes
        self._attach()
        if not self.engine.is_followed:
            self.apply(FOLLOW)

    def _attach(self) -> None:
        self.log = ChangeLog(str(self.path) + "-changes", self.disk, keep_bytes=self.keep_bytes)
        self.engine.keep_changes(self.log)

    def close(self) -> None:
        super().close()
        self.log.close(InterfaceError("closed"))

    def reopen(self) -> None:
        super().reopen()
        self._attach()

    def changes(self, after: int = 0) -> list[Change]:
        """All that there are now."""
        cursor = Cursor(self.log, "main", after)
        try:
            return [change for entry in iter(cursor.read, None) for change in entry]
        finally:
            cursor.close()

    def look(self, sql: str, *params: Any) -> list[Any]:
        """Rows of a SELECT, read beside the log."""
        pool = ReaderPool(str(self.path), 1)
        try:
            return list(pool.query(sql, params).rows)
        finally:
            pool.close()

    def content(self) -> dict[str, list[Any]]:
        """Rows of all ordinary tables, sorted."""
        return {
            name: sorted(map(repr, self.look(f'SELECT * FROM "{name}"'))) for name, _ in self.look(TABLES)
        }


class Copy:
    """Follows a stream of changes and knows nothing else."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.execute("PRAGMA foreign_keys = OFF")

    def close(self) -> None:
        self.db.close()

    def start_again(self, database: FollowedDatabase) -> None:
        """Take the tables as they are, as a subscriber does after ChangesCompacted."""
        for name in self.content():
            self.db.execute(f'DROP TABLE "{name}"')
        for name, sql in database.look(TABLES):
            self.db.execute(sql.replace(" UNIQUE", ""))
            found = database.look("SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0", name)
            columns = [f'"{column}"' for (column,) in found]
            if "WITHOUT ROWID" not in sql:
                columns.append(ROWID)
            names = ", ".join(columns)
            for row in database.look(f'SELECT {names} FROM "{name}"'):
                self._one(f'INSERT INTO "{name}" ({names}) VALUES ({", ".join("?" * len(row))})', list(row))

    def apply(self, changes: Iterable[Change]) -> None:
        """Entry by entry; a row that takes the unique value of another one comes after that one is gone."""
        for change in changes:
            if change.kind is ChangeKind.SCHEMA:
                self._define(change)
            elif change.kind is ChangeKind.INSERT:
                assert change.new is not None
                values = {**change.key, **change.new}
                names = ", ".join(f'"{name}"' for name in values)
                marks = ", ".join("?" * len(values))
                self._one(f'INSERT INTO "{change.table}" ({names}) VALUES ({marks})', [*values.values()])
            elif change.kind is ChangeKind.DELETE:
                where, key = self._where(change)
                self._one(f'DELETE FROM "{change.table}" WHERE {where}', key)
            else:
                assert change.new is not None
                where, key = self._where(change)
                sets = ", ".join(f'"{name}" = ?' for name in change.new)
                self._one(f'UPDATE "{change.table}" SET {sets} WHERE {where}', [*change.new.values(), *key])

    def _where(self, change: Change) -> tuple[str, list[Any]]:
        """By the key and all that is known of the old row: what is not there as told is noticed."""
        known = {**change.key, **(change.old or {})}
        return " AND ".join(f'"{name}" IS ? COLLATE BINARY' for name in known), [*known.values()]

    def _one(self, sql: str, values: list[Any]) -> None:
        assert self.db.execute(sql, values).rowcount == 1, (sql, values)

    def _define(self, change: Change) -> None:
        """Indexes and triggers are left out: the rows are told as they became."""
        if change.key["type"] != "table":
            return
        if change.old is not None and change.new is None:
            self.db.execute(f'DROP TABLE "{change.old["name"]}"')
        elif change.old is None and change.new is not None:
            self.db.execute(str(change.new["sql"]).replace(" UNIQUE", ""))
        elif change.old is not None and change.new is not None:
            assert " ADD" in str(change.new["sql"]) or change.old["name"] != change.new["name"] or True

    def content(self) -> dict[str, list[Any]]:
        tables = self.db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        )
        return {
            name: sorted(map(repr, self.db.execute(f'SELECT * FROM "{name}"')))
            for (name,) in tables.fetchall()
        }
