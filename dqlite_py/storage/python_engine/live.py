"""An interactive transaction, live on the writer connection until it is rolled back: live.c."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int, c_void_p
from types import FrameType
from typing import Final

import apsw

from dqlite_py.storage.engine_api import LiveResult
from dqlite_py.storage.python_engine import vfs
from dqlite_py.storage.python_engine.body import Broken, Failed
from dqlite_py.storage.python_engine.engine import EngineState
from dqlite_py.storage.python_engine.group import (
    FIRST_DIGEST,
    fail_group,
    next_digest,
    start_group,
    start_transaction,
)
from dqlite_py.storage.python_engine.guard import Place
from dqlite_py.storage.python_engine.payload import Body
from dqlite_py.storage.python_engine.run_statement import is_environmental, run_statement
from dqlite_py.storage.python_engine.sqlite_api import address_of, sqlite
from dqlite_py.storage.python_engine.statements import SqlError, error_of

_PROGRESS_OPS: Final = 1000
_PROGRESS: Final = ctypes.CFUNCTYPE(c_int, c_void_p)
_IDLE, _RUNNING, _INTERRUPTED = range(3)


class PythonFlag:
    """LiveFlag."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = _IDLE
        self.caught: BaseException | None = None

    def arm(self) -> None:
        self._state = _RUNNING

    def disarm(self) -> None:
        with self._lock:
            self._state = _IDLE

    def request(self) -> None:
        with self._lock:
            if self._state == _RUNNING:
                self._state = _INTERRUPTED

    @property
    def is_interrupted(self) -> bool:
        return self._state == _INTERRUPTED


@contextmanager
def handlers_held(flag: PythonFlag) -> Iterator[None]:
    """On the main thread: what SIGINT's handler raises interrupts the run, and is kept for the end of it."""
    before = (
        signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    )
    if not callable(before):
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except BaseException as raised:  # noqa: BLE001 - raised again when SQLite is left
            flag.caught = raised
            flag.request()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Live:
    """The live transaction of an engine."""

    def __init__(self, engine: EngineState, now_us: int, seed: bytes) -> None:
        """Begin it; raises Broken."""
        self.is_open = False
        self.has_changed = False  # more than savepoint control was recorded
        self.groups: list[bytes] = []  # recorded
        self.digest = FIRST_DIGEST
        self._engine = engine
        self._now_us = now_us
        self._seed = seed
        self._flag = PythonFlag()
        self._deadline_s: float | None = None
        self._is_late = False
        self._on_progress = _PROGRESS(self._must_stop)
        engine.results.discard = False
        code = engine.begin()
        if code != apsw.SQLITE_OK:
            raise Broken(error_of(engine.db, code))
        self.is_open = True
        try:
            # The replay has one: FTS writes its pending terms by savepoints.
            code = engine.run_own("savepoint")
            if code != apsw.SQLITE_OK:
                raise Broken(error_of(engine.db, code))
            start_transaction(engine)
        except Broken:
            self.stop()
            raise

    def stop(self) -> int:
        """Roll back what is open; an SQLite code."""
        if not self.is_open:
            return apsw.SQLITE_OK
        self.is_open = False
        engine = self._engine
        if engine.schema_touched:
            engine.statements.clear()
        return apsw.SQLITE_OK if sqlite.get_autocommit(engine.db) else engine.run_own("rollback")

    def run(self, body: bytes, group: Body, timeout_s: float | None, flag: PythonFlag) -> LiveResult:
        """Run a group, whose bytes are `body`; raises MemoryError."""
        with handlers_held(flag):
            return self._run(body, group, timeout_s, flag)

    def _run(self, body: bytes, group: Body, timeout_s: float | None, flag: PythonFlag) -> LiveResult:
        engine = self._engine
        self._flag = flag
        self._is_late = False
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        engine.results.cut(0)
        engine.decltypes = None
        mutex = sqlite.db_mutex(engine.db)
        sqlite.mutex_enter(mutex)
        vfs.fix_time(vfs.unix_ms(self._now_us))
        sqlite.progress_handler(engine.db, _PROGRESS_OPS, address_of(self._on_progress), None)
        # Only what is alone and reads is sure not to become part of the log.
        engine.guard.place = Place.LOOKING if len(group) == 1 else Place.GROUP
        engine.keeps_decltypes = True
        try:
            is_recorded = self._run_group(body, group)
        except MemoryError:
            self.stop()
            raise
        finally:
            engine.keeps_decltypes = False
            engine.guard.place = Place.UNIT
            sqlite.progress_handler(engine.db, 0, None, None)
            vfs.release_time()
            sqlite.mutex_leave(mutex)
        types = engine.decltypes
        decltypes = types and tuple(None if t is None else t.decode("utf-8", "replace") for t in types)
        return LiveResult(engine.results.content(), engine.changed, self.is_open, is_recorded, decltypes)

    def _run_group(self, body: bytes, group: Body) -> bool:
        """Returns whether it was recorded."""
        engine = self._engine
        start = start_group(engine, group, self._seed, len(self.groups))
        failed = self._run_statements(group)
        if failed is not None:
            fail_group(engine, start, failed)
            engine.decltypes = None
        if self._has_ended(failed):
            sqlite.progress_handler(engine.db, 0, None, None)  # it must not stop the ROLLBACK
            self.stop()  # a failure of it is met again at the next BEGIN
            return False
        if not engine.wrote:
            return False
        self.groups.append(body)
        self.has_changed = self.has_changed or engine.changed
        self.digest = next_digest(self.digest, engine.results.content())
        return True

    def _run_statements(self, group: Body) -> Failed | None:
        for position, statement in enumerate(group):
            try:
                if self._must_stop(0):
                    raise SqlError(apsw.SQLITE_INTERRUPT, b"interrupted")
                run_statement(self._engine, statement)
            except SqlError as error:
                if error.code == apsw.SQLITE_INTERRUPT:
                    late = b"interrupted: the statement took longer than it may"
                    error = SqlError(error.code, late if self._is_late else b"interrupted")
                return Failed(error, position)
        return None

    def _has_ended(self, failed: Failed | None) -> bool:
        """What the replay could not repeat."""
        engine = self._engine
        code = 0 if failed is None else failed.error.code
        is_harmless = code == apsw.SQLITE_INTERRUPT and not engine.wrote
        return (
            sqlite.get_autocommit(engine.db)
            or engine.max_rowid_used
            or (is_environmental(code) and not is_harmless)
        )

    def _must_stop(self, context: int) -> int:
        """Called by SQLite, too."""
        if self._flag.is_interrupted:
            return 1
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            self._is_late = True
        return int(self._is_late)
