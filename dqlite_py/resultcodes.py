"""SQLite result codes to the PEP 249 classes of errors.py, by one total table.

The classes are those of CPython's sqlite3 module, but for AUTH (our refusals) and RANGE (parameters, which sqlite3
itself finds wrong before SQLite does). For the results of units, on nodes and in programs outside them; storage adds
apsw's exceptions (storage/sqlerrors.py). Any thread.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from dqlite_py.errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NeverApplied,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    SessionExpired,
    StorageFull,
    TransactionEnded,
)
from dqlite_py.sqlite_codes import FULL

# The engine's own results of units: extended codes of ABORT that SQLite does not use (native/sessions.h).
SESSION_EXPIRED: Final = 4 | 200 << 8  # also: ahead of the log's time
SESSION_SUPERSEDED: Final = 4 | 201 << 8
NEVER_APPLIED: Final = 4 | 202 << 8
TRANSACTION_DIVERGED: Final = 4 | 203 << 8
OWN_CODES: Final[dict[int, type[Error]]] = {
    SESSION_EXPIRED: SessionExpired,
    SESSION_SUPERSEDED: SessionExpired,
    NEVER_APPLIED: NeverApplied,
    TRANSACTION_DIVERGED: TransactionEnded,
}
_LOG_TIME: Final = re.compile(r"\(log time (-?\d{1,19}) us\)")
_DISK_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

BY_PRIMARY_CODE: Final[dict[int, type[Error]]] = {
    1: OperationalError,  # ERROR
    2: InternalError,  # INTERNAL
    3: OperationalError,  # PERM
    4: OperationalError,  # ABORT
    5: OperationalError,  # BUSY
    6: OperationalError,  # LOCKED
    7: OperationalError,  # NOMEM
    8: OperationalError,  # READONLY
    9: OperationalError,  # INTERRUPT
    10: OperationalError,  # IOERR
    11: DatabaseError,  # CORRUPT
    12: InternalError,  # NOTFOUND
    13: OperationalError,  # FULL
    14: OperationalError,  # CANTOPEN
    15: OperationalError,  # PROTOCOL
    16: OperationalError,  # EMPTY
    17: OperationalError,  # SCHEMA
    18: DataError,  # TOOBIG
    19: IntegrityError,  # CONSTRAINT
    20: IntegrityError,  # MISMATCH
    21: InterfaceError,  # MISUSE
    22: OperationalError,  # NOLFS
    23: NotSupportedError,  # AUTH
    24: DatabaseError,  # FORMAT
    25: ProgrammingError,  # RANGE
    26: DatabaseError,  # NOTADB
    27: OperationalError,  # NOTICE
    28: OperationalError,  # WARNING
}


def error_class(code: int) -> type[Error]:
    """The class for a primary or extended result code; an unknown code is a DatabaseError."""
    return OWN_CODES.get(code) or BY_PRIMARY_CODE.get(code & 0xFF, DatabaseError)


def error_from_code(code: int, message: str, *, statement: int | None = None) -> Error:
    """Build the error of a failed statement; `statement` is its position in the unit.

    A key that is out of its time gives SessionExpired with the detail `log_time_us`, that of the entry.
    """
    if code == SESSION_EXPIRED:  # a new key must be newer than the log's time
        found = _LOG_TIME.search(message)
        return SessionExpired(message, code=code, log_time_us=int(found[1]) if found else 0)
    if statement is None:
        return error_class(code)(message, code=code)
    return error_class(code)(message, code=code, statement=statement)


def environment_error(code: int, system_errno: int, message: str) -> Error:
    """The error of a node whose disk, memory or files failed under an apply: nothing was applied."""
    if code & 0xFF == FULL or system_errno in _DISK_FULL_ERRNOS:
        return StorageFull(f"no space to apply the log: {message}", code=code)
    return InternalError(
        f"the log cannot be applied on this node: {message} (errno {system_errno})", code=code
    )
