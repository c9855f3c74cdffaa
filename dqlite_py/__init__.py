"""Replicated SQLite inside your program: `with dqlite_py.Node(dir, listen="127.0.0.1:9001") as node:`.

`node.connect("app")` gives a PEP 249 connection, `dqlite_py.connect("h1:9001,h2:9001/app")` one to a cluster that this
process is no member of; the module has PEP 249's names too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dqlite_py import dbapi
from dqlite_py.changes import Change, ChangeKind
from dqlite_py.config import TlsSettings
from dqlite_py.dbapi import (
    LEGACY_TRANSACTION_CONTROL,
    PARSE_COLNAMES,
    PARSE_DECLTYPES,
    Binary,
    Connection,
    Cursor,
    Date,
    DateFromTicks,
    PrepareProtocol,
    Row,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
    adapt,
    apilevel,
    complete_statement,
    paramstyle,
    register_adapter,
    register_converter,
    sqlite_version,
    sqlite_version_info,
    threadsafety,
)
from dqlite_py.errors import (
    Busy,
    DatabaseError,
    DatabaseLocked,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NeverApplied,
    NodeStopped,
    NoLeader,
    NotSupportedError,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    ProgrammingError,
    ResultNotKept,
    SessionExpired,
    SnapshotConflict,
    StorageFull,
    TransactionEnded,
    Warning,
)
from dqlite_py.gateway import ReadLevel, WriteKey

if TYPE_CHECKING:
    from dqlite_py.app import Node
    from dqlite_py.client import RemoteCluster, connect, connect_async

__version__ = "0.1.0"

__all__ = [
    "LEGACY_TRANSACTION_CONTROL",
    "PARSE_COLNAMES",
    "PARSE_DECLTYPES",
    "Binary",
    "Busy",
    "Change",
    "ChangeKind",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "DatabaseLocked",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NeverApplied",
    "NoLeader",
    "Node",
    "NodeStopped",
    "NotSupportedError",
    "OperationalError",
    "Outcome",
    "OutcomeUnknown",
    "PrepareProtocol",
    "ProgrammingError",
    "ReadLevel",
    "RemoteCluster",
    "ResultNotKept",
    "Row",
    "SessionExpired",
    "SnapshotConflict",
    "StorageFull",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "TlsSettings",
    "TransactionEnded",
    "Warning",
    "WriteKey",
    "adapt",
    "apilevel",
    "complete_statement",
    "connect",
    "connect_async",
    "paramstyle",
    "register_adapter",
    "register_converter",
    "sqlite_version",
    "sqlite_version_info",
    "threadsafety",
]


def __getattr__(name: str) -> Any:
    """Load the node only when it is asked for: errors and the command line need neither raft nor SQLite."""
    if name == "Node":
        from dqlite_py.app import Node

        return Node
    if name in ("RemoteCluster", "connect", "connect_async"):
        from dqlite_py import client

        return getattr(client, name)
    if name.startswith("SQLITE_"):
        return getattr(dbapi, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
