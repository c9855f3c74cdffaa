"""How connections to a database are opened: every setting that SQL's meaning or durability hangs on, in one place.

All settings are named, also where they are SQLite's defaults: another wheel, or a host program's apsw hooks, must
not change what a statement does on one node only. Three kinds: writer (engine.py), checkpointer (checkpoint.py),
reader (readers.py). Each connection is used by one thread at a time.
"""

from __future__ import annotations

import os
from typing import Final

import apsw

from dqlite_py.errors import CorruptState, InternalError
from dqlite_py.limits import DATABASE_PAGE_BYTES, MIB, STATEMENT_PARAMS_MAX, UNIT_BYTES_MAX
from dqlite_py.storage.implementation import vfs_name
from dqlite_py.storage.sqlerrors import error_from_apsw

WRITER_CACHE_BYTES: Final = 64 * MIB
READER_CACHE_BYTES: Final = 8 * MIB
READER_BUSY_MS: Final = 1_000

# What a statement means must not differ between nodes, nor between a unit and a query.
_CONFIG: Final = {
    apsw.SQLITE_DBCONFIG_DEFENSIVE: 1,
    apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA: 0,
    apsw.SQLITE_DBCONFIG_ENABLE_QPSG: 1,  # plans must not depend on the values bound first
    apsw.SQLITE_DBCONFIG_ENABLE_FKEY: 1,
    apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER: 1,
    apsw.SQLITE_DBCONFIG_ENABLE_VIEW: 1,
    apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION: 0,
    apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER: 0,
    apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA: 0,
    apsw.SQLITE_DBCONFIG_LEGACY_ALTER_TABLE: 0,
    apsw.SQLITE_DBCONFIG_LEGACY_FILE_FORMAT: 0,
    apsw.SQLITE_DBCONFIG_DQS_DDL: 1,
    apsw.SQLITE_DBCONFIG_DQS_DML: 1,
    apsw.SQLITE_DBCONFIG_REVERSE_SCANORDER: 0,
    apsw.SQLITE_DBCONFIG_FP_DIGITS: 17,
}
_LIMITS: Final = {
    apsw.SQLITE_LIMIT_LENGTH: UNIT_BYTES_MAX,
    apsw.SQLITE_LIMIT_SQL_LENGTH: UNIT_BYTES_MAX,
    apsw.SQLITE_LIMIT_VARIABLE_NUMBER: STATEMENT_PARAMS_MAX,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 1000,
    apsw.SQLITE_LIMIT_FUNCTION_ARG: 1000,
    apsw.SQLITE_LIMIT_COLUMN: 2000,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 500,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 1000,
    apsw.SQLITE_LIMIT_VDBE_OP: 250_000_000,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50_000,
}
_SHARED_PRAGMAS: Final = (
    "synchronous = NORMAL",  # the journal is the durable log; SQLite replays from its own applied index
    "temp_store = MEMORY",
    "mmap_size = 0",
    "recursive_triggers = OFF",
    "reverse_unordered_selects = OFF",
    "ignore_check_constraints = OFF",
    "automatic_index = ON",
    "secure_delete = OFF",
    "analysis_limit = 0",
    "threads = 0",
)


def open_writer(path: str, *, create: bool, cache_bytes: int = WRITER_CACHE_BYTES) -> apsw.Connection:
    """Open the one connection that applies the log; raises CorruptState."""
    if not create and not os.path.exists(path):
        raise CorruptState(f"database file {path} is missing", file=path, expected="a file", found="nothing")
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    pragmas = (
        # Before the file has its first page; without effect on a file that exists.
        f"page_size = {DATABASE_PAGE_BYTES}",
        "auto_vacuum = NONE",
        "encoding = 'UTF-8'",
        "journal_mode = WAL",
        "locking_mode = NORMAL",
        "wal_autocheckpoint = 0",  # checkpoint.py: a lagging reader would make every commit retry
        "cache_spill = OFF",  # a spilled page changes bytes that the state hash covers
        f"cache_size = -{cache_bytes // 1024}",
    )
    connection = _open(path, flags, pragmas)
    mode = connection.pragma("journal_mode")
    if mode != "wal":
        connection.close()
        raise InternalError(f"{path} cannot use a write-ahead log (journal_mode is {mode})")
    return connection


def open_checkpointer(path: str) -> apsw.Connection:
    """Open the connection that only moves WAL frames into the database file."""
    return _open(path, apsw.SQLITE_OPEN_READWRITE, ("wal_autocheckpoint = 0", "cache_size = -64"))


def open_reader(path: str, *, cache_bytes: int = READER_CACHE_BYTES) -> apsw.Connection:
    """Open a connection that cannot write. The writer must be open."""
    pragmas = (f"cache_size = -{cache_bytes // 1024}", "query_only = ON")
    connection = _open(path, apsw.SQLITE_OPEN_READONLY, pragmas)
    connection.set_busy_timeout(READER_BUSY_MS)
    return connection


def _open(path: str, flags: int, pragmas: tuple[str, ...]) -> apsw.Connection:
    vfs = vfs_name()
    try:
        connection = apsw.Connection(path, flags=flags, vfs=vfs)
        try:
            for option, value in _CONFIG.items():
                connection.config(option, value)
            for limit, value in _LIMITS.items():
                connection.limit(limit, value)
            for pragma in (*pragmas, *_SHARED_PRAGMAS):
                # Not kept by apsw: its statements would fill the connection's lookaside memory for good, so that
                # every later step would use malloc.
                connection.execute(f"PRAGMA {pragma}", can_cache=False).fetchall()
        except BaseException:
            connection.close()
            raise
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise CorruptState(
            f"{path} is not a sound SQLite database: {error}",
            file=path,
            expected="an SQLite database",
            found=str(error),
        ) from error
    except apsw.Error as error:
        raise error_from_apsw(error) from error
    return connection
