"""The embedded database API (PEP 249): `node.connect("name")`, or `connect(gateway, "name")`.

Behaves as sqlite3's Connection does; docs/differences-from-sqlite3.md says where it does not. Runs on user threads,
never on a node's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from dqlite_py.dbapi.baseconnection import BaseConnection
from dqlite_py.dbapi.cursor import Cursor
from dqlite_py.dbapi.dump import dump_steps
from dqlite_py.dbapi.settings import TIMEOUT_S, check_autocommit, check_isolation_level
from dqlite_py.dbapi.steps import Steps, drive, once
from dqlite_py.dbapi.transaction import Transaction
from dqlite_py.gateway import Gateway, WriteKey


class Connection(BaseConnection):
    """See BaseConnection for the options and the attributes.

    `with connection:` commits, or rolls back when its block raises, and leaves the connection open, as sqlite3 does.
    """

    _is_sync = True

    # -- statements -----------------------------------------------------------------------------------

    def cursor(self, factory: Callable[[Connection], Any] = Cursor) -> Any:
        """A new cursor; `factory` makes it of the connection."""
        if self._is_closed or not self._guard.may_pass():
            self._ready()
        cursor = factory(self)
        if factory is Cursor:
            return cursor
        if not issubclass(type(cursor), Cursor):  # whatever its __class__ says
            raise TypeError(f"factory must return a cursor, not {type(cursor).__name__}")
        if self.row_factory is not None:
            cursor.row_factory = self.row_factory
        return cursor

    def execute(
        self,
        sql: str,
        params: Any = (),
        /,
        *,
        read_level: Any = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Run one statement on a new cursor; see Cursor.execute."""
        return self.cursor().execute(
            sql, params, read_level=read_level, max_staleness=max_staleness, timeout=timeout
        )

    def executemany(self, sql: str, seq_of_params: Iterable[Any], /, *, timeout: float | None = None) -> Any:
        """Run one statement per parameter set on a new cursor; see Cursor.executemany."""
        return self.cursor().executemany(sql, seq_of_params, timeout=timeout)

    def executescript(self, script: str, /, *, timeout: float | None = None) -> Any:
        """Run a script on a new cursor; see Cursor.executescript."""
        return self.cursor().executescript(script, timeout=timeout)

    def execute_atomic(
        self,
        statements: Iterable[tuple[str, Any] | str],
        /,
        *,
        timeout: float | None = None,
        key: WriteKey | None = None,
    ) -> list[Any]:
        """Run statements as one unit, in one round: all of them happen, or none. In a transaction: as its part.

        `statements`: (sql, params) pairs, or just sql. Each sees what those before it did; SELECT is allowed.
        Returns a cursor per statement, holding its rows, rowcount and lastrowid. Raises the first failing
        statement's error; `details["statement"]` is its position.

        `key`: from new_key(), of this or another connection. The same statements sent again under it, by any process
        and through any node, take effect once and return the first result, while the cluster remembers keys.
        """
        results = self._drive(self._core.execute_atomic(statements, self._timeout(timeout), key))
        cursors = [self.cursor() for _result in results]
        for cursor, result in zip(cursors, results, strict=True):
            cursor._show(result)
        return cursors

    def resolve(self, error: BaseException, timeout: float | None = None) -> Any:
        """Find out what became of the write that failed with `error`, an OutcomeUnknown.

        Returns a cursor with its original result (of its last statement), raises its original error, or NeverApplied:
        it did not happen and never will. Raises ProgrammingError for an error that names no write.
        """
        cursor = self.cursor()
        cursor._show(self._drive(self._core.resolve(error, self._timeout(timeout))))
        return cursor

    def iterdump(self, *, filter: str | None = None) -> Iterator[str]:
        """The database as SQL, statement by statement, of one state; a script for executescript().

        `filter`: only tables and views whose name is LIKE it, as in Python 3.13.
        """
        self._ready()
        return self._dump(filter)

    def _dump(self, pattern: str | None) -> Iterator[str]:
        open_one = self._core.transaction
        transaction = Transaction(self._core) if open_one is None else open_one
        steps, value = dump_steps(self._core, transaction, pattern), None
        try:
            while True:
                step = steps.send(value)
                if isinstance(step, str):
                    value = None
                    yield step
                else:
                    value = self._drive(once(step))
        except StopIteration:
            return
        finally:
            if open_one is None:
                self._guard.enter()
                try:
                    drive(transaction.rollback())
                finally:
                    self._guard.leave()

    # -- transactions ---------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make the open transaction durable on a majority; nothing to do without one.

        Raises IntegrityError, the transaction still open, for violated deferred foreign keys; else it is over after an
        error, whose `outcome` says what is true.
        """
        self._drive(self._core.commit())

    def rollback(self) -> None:
        """Undo the open transaction; nothing to do without one."""
        self._drive(self._core.rollback())

    @property
    def isolation_level(self) -> str | None:
        self._ready()
        return self._core.settings.isolation_level

    @isolation_level.setter
    def isolation_level(self, level: str | None) -> None:
        self._drive(self._core.set_isolation_level(check_isolation_level(level)))

    @isolation_level.deleter
    def isolation_level(self) -> None:
        raise AttributeError("cannot delete attribute")

    @property
    def autocommit(self) -> bool | int:
        self._ready()
        return self._core.settings.autocommit

    @autocommit.setter
    def autocommit(self, value: bool | int) -> None:
        self._drive(self._core.set_autocommit(check_autocommit(value)))

    def _drive(self, steps: Steps[Any]) -> Any:
        self._known()
        self._guard.enter()
        try:
            self._check_open()
            return drive(steps)
        finally:
            self._guard.leave()

    # -- life -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Roll back what is open and refuse any later use, of its cursors too. Closing twice is allowed."""
        core = self._known()
        self._guard.enter()
        try:
            if not self._is_closed:
                self._is_closed = core.is_closed = True
                drive(core.close())
        finally:
            self._guard.leave()

    def __enter__(self) -> Self:
        self._ready()
        return self

    def __exit__(self, _type: object, exception: BaseException | None, _traceback: object) -> None:
        self._drive(self._core.leave(failed=exception is not None))

    def __del__(self) -> None:
        if not self._is_closed and not self._guard.is_forked():
            self._is_closed = True
            if self._core.transaction is not None or self._core.rests:
                drive(self._core.close())


def connect(gateway: Gateway, database: str, *, factory: Any = Connection, **options: Any) -> Any:
    """Open `database` on a node, creating it in the cluster when it does not exist.

    `options`: see BaseConnection; `factory`: makes the connection of the same arguments. Raises what kept the cluster
    from opening the database in time.
    """
    connection = factory(gateway, database, **options)
    gateway.open_database(database, options.get("timeout", TIMEOUT_S))
    return connection
