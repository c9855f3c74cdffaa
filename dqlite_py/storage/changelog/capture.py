"""Watches the writer while it applies an entry and puts what became of the rows into the change log. Apply thread.

SQLite's session extension notes which rows are touched and what they were; right before COMMIT it compares them with
what they are. So what was undone inside the entry does not show, and neither the pages nor the results of an entry
depend on whether it is watched (FOLLOW_SQL was applied before: see native/guard.h). Whatever fails here costs the log
(it starts anew behind the entry), never the entry.
"""

from __future__ import annotations

import logging

import apsw

from dqlite_py.limits import CHANGES_ENTRY_BYTES_MAX
from dqlite_py.logs import event
from dqlite_py.storage.changelog.format import Body
from dqlite_py.storage.changelog.log import ChangeLog
from dqlite_py.storage.changelog.schema import (
    NotDescribed,
    all_rows,
    created_tables,
    known_keys,
    read_schema,
    redefinitions,
    schema_version,
)
from dqlite_py.storage.connection import open_reader
from dqlite_py.storage.engine_api import ApplyEngine

_log = logging.getLogger("dqlite_py.changes")


class Capture:
    """Of one open writer. Between `begin` and `end`, one entry is applied."""

    def __init__(
        self, connection: apsw.Connection, engine: ApplyEngine, log: ChangeLog, applied: int
    ) -> None:
        self.log = log
        self._connection = connection
        self._engine = engine
        self._schema = self._next = read_schema(connection)
        self._session: apsw.Session | None = None
        self._reader: apsw.Connection | None = None
        self._index = 0
        self._drops = 0
        self._why_not: Exception | None = None
        if not log.open(applied) and self._schema.was_always_empty:
            log.restart(0)  # nothing was missed
        engine.set_before_commit(self._describe)

    def begin(self, index: int) -> None:
        """Watch what entry `index` does."""
        self._index = index
        self._why_not = NotDescribed("it was not executed")
        self._drops = self._engine.drops
        session = apsw.Session(self._connection, "main")
        session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, 1)
        for table in self._schema.layout:
            session.attach(table)
        self._session = session

    def end(self) -> None:
        """The entry was applied or not."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def committed(self) -> None:
        """It was applied: what was noted is true."""
        self._schema = self._next
        if self._why_not is None:
            self.log.commit(self._index)
            return
        event(
            _log,
            logging.WARNING,
            "changes start anew",
            folder=self.log.folder,
            log_index=self._index,
            reason=self._why_not,
        )
        self.log.restart(self._index)

    def close(self) -> None:
        self.end()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._engine.set_before_commit(None)

    def _describe(self) -> None:
        """Called right before COMMIT."""
        try:
            self._next = self._schema
            assert self._session is not None
            if schema_version(self._connection) != self._schema.version:
                self._next = read_schema(self._connection)
            changeset = self._session.changeset()
            if len(changeset) > CHANGES_ENTRY_BYTES_MAX:
                raise NotDescribed("it changed too much")
            body = Body(
                changeset, known=known_keys(changeset, self._next.layout, self._reader_before) or None
            )
            if self._next is not self._schema:
                body = self._with_schema(body)
            self.log.prepare(self._index, body, self._next.layout)
            self._why_not = None
        except Exception as error:  # noqa: BLE001 - the entry is applied all the same
            self._why_not = error

    def _reader_before(self) -> apsw.Connection:
        """A connection that sees the state before the entry, which is not committed yet."""
        if self._reader is None:
            self._reader = open_reader(self._connection.db_filename("main"))
        return self._reader

    def _with_schema(self, body: Body) -> Body:
        definitions = redefinitions(self._schema, self._next, self._engine.drops - self._drops)
        created = {
            table: all_rows(self._connection, table, self._next.layout[table][0])
            for table in created_tables(self._schema, self._next)
        }
        return body._replace(layout=self._next.layout, definitions=definitions, created=created)
