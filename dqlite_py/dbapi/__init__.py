"""The database API (PEP 249) with sqlite3's behaviour: `node.connect("name")`, or `connect(gateway, "name")`.

The async twin is dqlite_py.aio. threadsafety is 1: a connection belongs to the thread that made it, or, with
check_same_thread=False, serves several threads in turn; threads may share the module and the node.
"""

from __future__ import annotations

from typing import Any, Final

from dqlite_py.dbapi.adapting import (
    PARSE_COLNAMES,
    PARSE_DECLTYPES,
    PrepareProtocol,
    adapt,
    adapters,
    converters,
    register_adapter,
    register_converter,
)
from dqlite_py.dbapi.connection import Connection, connect
from dqlite_py.dbapi.cursor import Cursor
from dqlite_py.dbapi.row import Row
from dqlite_py.dbapi.settings import LEGACY_TRANSACTION_CONTROL
from dqlite_py.dbapi.types import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    Date,
    DateFromTicks,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
)
from dqlite_py.errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)
from dqlite_py.gateway import ReadLevel
from dqlite_py.sqlite_codes import CODES, SQLITE_VERSION
from dqlite_py.sqltext import is_complete as complete_statement

__all__ = [
    "BINARY",
    "DATETIME",
    "LEGACY_TRANSACTION_CONTROL",
    "NUMBER",
    "PARSE_COLNAMES",
    "PARSE_DECLTYPES",
    "ROWID",
    "STRING",
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "PrepareProtocol",
    "ProgrammingError",
    "ReadLevel",
    "Row",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "adapt",
    "adapters",
    "apilevel",
    "complete_statement",
    "connect",
    "converters",
    "paramstyle",
    "register_adapter",
    "register_converter",
    "sqlite_version",
    "sqlite_version_info",
    "threadsafety",
]

apilevel: Final = "2.0"
threadsafety: Final = 1
paramstyle: Final = "qmark"  # named (:name) is accepted as well
sqlite_version: Final = SQLITE_VERSION
sqlite_version_info: Final = tuple(int(part) for part in SQLITE_VERSION.split("."))


def __getattr__(name: str) -> Any:
    """SQLite's result codes, as of sqlite3: SQLITE_CONSTRAINT_UNIQUE, …"""
    if name in CODES:
        return CODES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
