"""What the two apply engines have in common: their results, their errors, and the shape of an implementation.

native_engine.py (C) and python_engine/ (its twin) provide an `Implementation` each; implementation.py chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

import apsw

from dqlite_py.errors import InternalError
from dqlite_py.sqlite_codes import IOERR

# The one statement on a reserved table (native/guard.h): once it is applied, sessions see every row that is deleted.
FOLLOW_SQL: Final = "CREATE TABLE IF NOT EXISTS _dqlite_changes (since INTEGER)"
STATEMENTS_MAX: Final = 256


class Verdict(IntEnum):
    """Result of an apply; nothing was applied unless it is APPLIED."""

    APPLIED = 0
    FORMAT = 1
    VERSION = 2
    ENVIRONMENT = 3


class Which(IntEnum):
    """A file of a connection."""

    DATABASE = 0
    WAL = 1


class State(NamedTuple):
    """What a successful call leaves; `results` is msgpack, empty unless it was asked for."""

    results: bytes
    state_hash: int
    page_count: int
    wal_frames: int
    wal_generation: int


class ApplyFailed(Exception):
    """Nothing was applied. `code` and `system_errno` are set when the verdict is ENVIRONMENT."""

    def __init__(self, verdict: Verdict, code: int, system_errno: int, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.code = code
        self.system_errno = system_errno
        self.message = message


class LiveResult(NamedTuple):
    """What a group of a live transaction gave.

    `results`: msgpack, [0, [[rowcount, last_insert_rowid, columns|nil, rows|nil] per statement]] or [extended code,
    message, statement position]. `wrote`: it did more than reading and savepoint control. `is_open`: False when it
    ended the transaction, of which nothing is left. `is_recorded`: it is part of what a commit replays. `decltypes`:
    declared types of the columns of the last statement with rows, None for an expression.
    """

    results: bytes
    wrote: bool
    is_open: bool
    is_recorded: bool
    decltypes: tuple[str | None, ...] | None


class LiveUnit(NamedTuple):
    """What a commit proposes: the recorded groups (none: nothing was written) and the digest of their results."""

    groups: list[bytes]
    digest: bytes


class LiveFlag(Protocol):
    """Through it any thread interrupts the statements of one live transaction; never anything else.

    `caught`: what a signal's handler raised while the run under way was on the main thread; it interrupted the run.
    """

    caught: BaseException | None

    def arm(self) -> None:
        """Before a run."""
        ...

    def disarm(self) -> None:
        """After it."""
        ...

    def request(self) -> None:
        """Interrupt the run that is armed, if there is one. Any thread."""
        ...


class ApplyEngine(Protocol):
    """The writer of one database, on an open connection of the implementation's VFS. One thread at a time."""

    def scan(self) -> State:
        """Recompute the state hash from the database file, whose WAL must be empty; raises ApplyFailed."""
        ...

    def apply(self, index: int, payload: bytes, want_results: bool) -> State:
        """Execute one UNITS payload as one SQLite transaction; raises ApplyFailed."""
        ...

    def live_begin(self, now_us: int, seed: bytes) -> None:
        """Begin a live transaction, which sees this time and chance (16 bytes); raises ApplyFailed."""
        ...

    def live_run(self, body: bytes, timeout_s: float | None, flag: LiveFlag) -> LiveResult:
        """Run a group for at most this time; raises ApplyFailed, which ended the transaction unless it is FORMAT."""
        ...

    def live_has_open_foreign_keys(self) -> bool:
        """Whether deferred foreign keys are violated, so that a commit would fail."""
        ...

    def live_end(self) -> LiveUnit:
        """Roll the live transaction back; raises ApplyFailed."""
        ...

    def live_flag(self) -> LiveFlag:
        """Of one live transaction; outlives the engine."""
        ...

    def set_before_commit(self, hook: Callable[[], None] | None) -> None:
        """Call `hook` when all of an entry is written, right before COMMIT, once per pass; it must not raise."""
        ...

    @property
    def is_followed(self) -> bool:
        """Whether hooks see each row that is deleted (FOLLOW_SQL was applied before)."""
        ...

    @property
    def drops(self) -> int:
        """Tables, virtual ones too, that statements were allowed to drop so far."""
        ...

    @property
    def passes(self) -> int:
        """How often the last entry was executed: above 1 when units had to be undone."""
        ...

    def close(self) -> None:
        """Finalize the engine's statements, BEFORE the connection is closed. Idempotent."""
        ...


class StartEngine(Protocol):
    def __call__(
        self, connection: apsw.Connection, *, statements_max: int = ..., results_max: int = ...
    ) -> ApplyEngine: ...


@dataclass(frozen=True, slots=True)
class Implementation:
    """The parts of an implementation; what each does is said in native_engine.py."""

    name: str
    vfs_name: str
    bootstrap: Callable[[], None]
    engine: StartEngine
    file_size: Callable[[apsw.Connection, Which], int]
    file_read: Callable[[apsw.Connection, Which, int, int], bytes]
    file_sync: Callable[[apsw.Connection, Which], None]
    inspect: Callable[[apsw.Connection, bytes], tuple[int, bool, str]]
    refusal: Callable[[bytes], str | None]
    hash_pages: Callable[[bytes | bytearray | memoryview, int, int], int]  # whole pages only


def check_file_code(code: int, what: str) -> None:
    """Raise InternalError unless `code` is SQLite's OK."""
    if code != 0:
        why = "disk I/O error" if code & 0xFF == IOERR else "not possible"
        raise InternalError(f"{what} of a database file: {why} (SQLite code {code})", code=code)
