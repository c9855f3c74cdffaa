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

STATEMENTS_MAX: Final = 256
_SQLITE_IOERR: Final = 10


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


class ApplyEngine(Protocol):
    """The writer of one database, on an open connection of the implementation's VFS. One thread's."""

    def scan(self) -> State:
        """Recompute the state hash from the database file, whose WAL must be empty; raises ApplyFailed."""
        ...

    def apply(self, index: int, payload: bytes, want_results: bool) -> State:
        """Execute one UNITS payload as one SQLite transaction; raises ApplyFailed."""
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
        why = "disk I/O error" if code & 0xFF == _SQLITE_IOERR else "not possible"
        raise InternalError(f"{what} of a database file: {why} (SQLite code {code})", code=code)
