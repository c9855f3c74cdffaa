"""One log entry to one SQLite transaction: apply.c, where passes and savepoints are explained."""

from __future__ import annotations

from typing import Final

import apsw

from dqlite_py.storage.python_engine import vfs
from dqlite_py.storage.python_engine.body import (
    Broken,
    Failed,
    has_open_foreign_keys,
    open_foreign_keys,
    put_failure,
    put_success,
    run_body,
)
from dqlite_py.storage.python_engine.engine import EngineState
from dqlite_py.storage.python_engine.group import replay_groups, start_transaction
from dqlite_py.storage.python_engine.payload import Body, Payload, Unit
from dqlite_py.storage.python_engine.sessions import Fate
from dqlite_py.storage.python_engine.sqlite_api import sqlite
from dqlite_py.storage.python_engine.statements import SqlError, error_of

# A unit that rolls the whole SQLite transaction back (OR ROLLBACK, RAISE(ROLLBACK)) costs a replay of the entry.
KILLERS_MAX: Final = 64
_NOT_EXECUTED: Final = SqlError(
    apsw.SQLITE_ABORT_ROLLBACK,
    b"not executed: too many units before it in the same log entry used ROLLBACK; send it again",
)


class _Again(Exception):
    """The transaction is to be executed once more."""


class Application:
    """Of one entry. Whether units have savepoints follows from the entry and the state alone."""

    def __init__(self, engine: EngineState, payload: Payload, index: int, *, want_results: bool) -> None:
        self.passes = 0
        self._engine = engine
        self._payload = payload
        self._index = index
        self._want_results = want_results
        self._plan = engine.sessions.plan(payload)
        self._killers: dict[int, Failed] = {}  # by position of the unit
        self._refused_from = len(payload.units)  # too many killers before these
        self._use_savepoints = False  # every unit has a savepoint in this pass

    def run(self) -> None:
        """Raises Broken."""
        while True:
            self.passes += 1
            try:
                return self._run_pass()
            except _Again:
                continue

    def conclude(self) -> None:
        """Bring what is in memory to what was committed."""
        engine = self._engine
        engine.watch.pages.commit()
        if engine.sessions.is_new:
            engine.statements.clear()  # a table more
        engine.sessions.commit(self._plan, self._index)
        if engine.guard.saw_follow:
            engine.guard.saw_follow = False
            engine.learn_followed()

    # -- one pass -------------------------------------------------------------------------------------

    def _run_pass(self) -> None:
        engine = self._engine
        engine.results.cut(0)
        engine.row_bytes = 0
        self._plan.row.clear()
        self._must(engine.begin())
        try:
            self._run_units()
            self._commit_index()
        except BaseException:
            try:
                if not sqlite.get_autocommit(engine.db):
                    self._must(engine.run_own("rollback"))
            finally:
                engine.statements.clear()  # prepared against a schema that may be undone
            raise

    def _must(self, code: int) -> None:
        if code != apsw.SQLITE_OK:
            raise Broken(error_of(self._engine.db, code))

    def _commit_index(self) -> None:
        engine = self._engine
        try:
            self._must(engine.sessions.write(self._plan, self._index))
        except SqlError as error:
            raise Broken(error) from None
        if not self._plan.has_row:  # the row shows the index, and saves writing another page
            self._must(engine.set_index(self._index))
        if engine.before_commit is not None:
            engine.before_commit()
        # The index goes into the SAME transaction: after a crash the database is exactly the state at its index.
        self._must(engine.run_own("commit"))

    def _run_units(self) -> None:
        results = self._engine.results
        results.discard = not self._want_results
        results.put_array(len(self._payload.units))
        for position, unit in enumerate(self._payload.units):
            if unit.session is None:
                self._settle(position, unit)
            else:
                self._settle_keyed(position, unit)

    def _settle(self, position: int, unit: Unit) -> None:
        results = self._engine.results
        killer = self._killers.get(position)
        if killer is not None:
            put_failure(results, killer)
        elif position >= self._refused_from:
            put_failure(results, Failed(_NOT_EXECUTED, 0))
        else:
            self._run_unit(position, unit)

    def _settle_keyed(self, position: int, unit: Unit) -> None:
        """A unit with a session: its result is kept also where nobody waits for it."""
        results, plan, sessions = self._engine.results, self._plan, self._engine.sessions
        start = results.size
        is_kept = plan.is_kept(position)
        results.discard = not (self._want_results or is_kept)
        if plan.fates[position] is Fate.EXECUTED:
            self._settle(position, unit)
        else:
            try:
                sessions.answer(plan, position, results)
            except SqlError as error:
                raise Broken(error) from None
        if is_kept:
            sessions.keep(plan, position, results.from_place(start))
        results.discard = not self._want_results
        if not self._want_results:
            results.cut(start)

    # -- one unit -------------------------------------------------------------------------------------

    def _run_unit(self, position: int, unit: Unit) -> None:
        engine = self._engine
        is_transaction = unit.digest is not None
        has_savepoint = self._use_savepoints or is_transaction or len(unit.body) > 1
        results_start, row_bytes_start = engine.results.size, engine.row_bytes
        # The savepoint first: what FTS5 writes at it belongs to the units before.
        if has_savepoint:
            self._must(engine.run_own("savepoint"))
        put_success(engine.results, len(unit.body))
        if is_transaction:
            start_transaction(engine)
            failed = replay_groups(engine, unit, self._payload.seed)
        else:
            self._begin_unit(position)
            failed = self._run_statements(unit.body)
        if sqlite.get_autocommit(engine.db):
            self._note_killer(position, failed)
            raise _Again
        if failed is not None:
            if failed.error.wrote and not has_savepoint:
                self._use_savepoints = True
                raise _Again
            engine.results.cut(results_start)
            engine.row_bytes = row_bytes_start
            put_failure(engine.results, failed)
            if has_savepoint:
                self._undo_unit()
        if has_savepoint:
            self._must(engine.run_own("release"))

    def _begin_unit(self, position: int) -> None:
        engine = self._engine
        engine.max_rowid_used = False
        engine.schema_changed = False
        engine.functions.start_chance(self._payload.seed, position)
        engine.functions.start_total()
        sqlite.set_last_insert_rowid(engine.db, 0)
        self._must(engine.run_own("reset_changes"))

    def _run_statements(self, body: Body) -> Failed | None:
        """Run all statements up to the first failure; raises Broken."""
        failed = run_body(self._engine, body)
        if failed is None and has_open_foreign_keys(self._engine.db):
            # COMMIT would fail and take the other units along
            return Failed(open_foreign_keys(), len(body) - 1)
        return failed

    def _undo_unit(self) -> None:
        engine = self._engine
        self._must(engine.run_own("rollback_to"))
        if engine.schema_changed:
            self._must(engine.reload_schema())

    def _note_killer(self, position: int, failed: Failed | None) -> None:
        """The transaction is gone. Remember the unit's error and go on without it."""
        if len(self._killers) == KILLERS_MAX:
            self._refused_from = position
            return
        self._killers[position] = failed or Failed(SqlError(0, b""), 0)


def apply(engine: EngineState, payload: Payload, index: int, *, want_results: bool) -> int:
    """Apply a decoded entry; returns the passes it took. Raises Broken."""
    engine.watch.refused = False
    engine.watch.pages.discard()
    vfs.begin(engine.db)
    application = Application(engine, payload, index, want_results=want_results)
    mutex = sqlite.db_mutex(engine.db)
    sqlite.mutex_enter(mutex)
    vfs.fix_time(vfs.unix_ms(payload.now_us))
    try:
        application.run()
        application.conclude()
    except BaseException:
        engine.watch.pages.discard()
        engine.sessions.undo()
        raise
    finally:
        vfs.release_time()
        sqlite.mutex_leave(mutex)
    return application.passes
