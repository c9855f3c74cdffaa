"""SQLite's version and its result codes, primary and extended: those that our code names, and the names of all numbers
(`sqlite_errorname` of our errors).

Source: sqlite.org/rescode.html. Tests compare both with the SQLite that runs.
"""

from __future__ import annotations

from typing import Final

SQLITE_VERSION: Final = "3.54.1"  # of the apsw in pyproject.toml
ERROR: Final = 1
ABORT: Final = 4
BUSY: Final = 5
LOCKED: Final = 6
NOMEM: Final = 7
READONLY: Final = 8
INTERRUPT: Final = 9
IOERR: Final = 10
CORRUPT: Final = 11
NOTFOUND: Final = 12
FULL: Final = 13
PROTOCOL: Final = 15
TOOBIG: Final = 18
CONSTRAINT: Final = 19
MISMATCH: Final = 20
MISUSE: Final = 21
AUTH: Final = 23
RANGE: Final = 25
NOTADB: Final = 26
ABORT_ROLLBACK: Final = 516
BUSY_SNAPSHOT: Final = 517
CONSTRAINT_FOREIGNKEY: Final = 787
_NAMES: Final[dict[int, str]] = {
    0: "OK",
    256: "OK_LOAD_PERMANENTLY",
    512: "OK_SYMLINK",
    1: "ERROR",
    257: "ERROR_MISSING_COLLSEQ",
    513: "ERROR_RETRY",
    769: "ERROR_SNAPSHOT",
    1025: "ERROR_RESERVESIZE",
    1281: "ERROR_KEY",
    1537: "ERROR_UNABLE",
    2: "INTERNAL",
    3: "PERM",
    4: "ABORT",
    516: "ABORT_ROLLBACK",
    5: "BUSY",
    261: "BUSY_RECOVERY",
    517: "BUSY_SNAPSHOT",
    773: "BUSY_TIMEOUT",
    6: "LOCKED",
    262: "LOCKED_SHAREDCACHE",
    518: "LOCKED_VTAB",
    7: "NOMEM",
    8: "READONLY",
    264: "READONLY_RECOVERY",
    520: "READONLY_CANTLOCK",
    776: "READONLY_ROLLBACK",
    1032: "READONLY_DBMOVED",
    1288: "READONLY_CANTINIT",
    1544: "READONLY_DIRECTORY",
    9: "INTERRUPT",
    10: "IOERR",
    266: "IOERR_READ",
    522: "IOERR_SHORT_READ",
    778: "IOERR_WRITE",
    1034: "IOERR_FSYNC",
    1290: "IOERR_DIR_FSYNC",
    1546: "IOERR_TRUNCATE",
    1802: "IOERR_FSTAT",
    2058: "IOERR_UNLOCK",
    2314: "IOERR_RDLOCK",
    2570: "IOERR_DELETE",
    2826: "IOERR_BLOCKED",
    3082: "IOERR_NOMEM",
    3338: "IOERR_ACCESS",
    3594: "IOERR_CHECKRESERVEDLOCK",
    3850: "IOERR_LOCK",
    4106: "IOERR_CLOSE",
    4362: "IOERR_DIR_CLOSE",
    4618: "IOERR_SHMOPEN",
    4874: "IOERR_SHMSIZE",
    5130: "IOERR_SHMLOCK",
    5386: "IOERR_SHMMAP",
    5642: "IOERR_SEEK",
    5898: "IOERR_DELETE_NOENT",
    6154: "IOERR_MMAP",
    6410: "IOERR_GETTEMPPATH",
    6666: "IOERR_CONVPATH",
    6922: "IOERR_VNODE",
    7178: "IOERR_AUTH",
    7434: "IOERR_BEGIN_ATOMIC",
    7690: "IOERR_COMMIT_ATOMIC",
    7946: "IOERR_ROLLBACK_ATOMIC",
    8202: "IOERR_DATA",
    8458: "IOERR_CORRUPTFS",
    8714: "IOERR_IN_PAGE",
    8970: "IOERR_BADKEY",
    9226: "IOERR_CODEC",
    11: "CORRUPT",
    267: "CORRUPT_VTAB",
    523: "CORRUPT_SEQUENCE",
    779: "CORRUPT_INDEX",
    12: "NOTFOUND",
    13: "FULL",
    14: "CANTOPEN",
    270: "CANTOPEN_NOTEMPDIR",
    526: "CANTOPEN_ISDIR",
    782: "CANTOPEN_FULLPATH",
    1038: "CANTOPEN_CONVPATH",
    1294: "CANTOPEN_DIRTYWAL",
    1550: "CANTOPEN_SYMLINK",
    15: "PROTOCOL",
    16: "EMPTY",
    17: "SCHEMA",
    18: "TOOBIG",
    19: "CONSTRAINT",
    275: "CONSTRAINT_CHECK",
    531: "CONSTRAINT_COMMITHOOK",
    787: "CONSTRAINT_FOREIGNKEY",
    1043: "CONSTRAINT_FUNCTION",
    1299: "CONSTRAINT_NOTNULL",
    1555: "CONSTRAINT_PRIMARYKEY",
    1811: "CONSTRAINT_TRIGGER",
    2067: "CONSTRAINT_UNIQUE",
    2323: "CONSTRAINT_VTAB",
    2579: "CONSTRAINT_ROWID",
    2835: "CONSTRAINT_PINNED",
    3091: "CONSTRAINT_DATATYPE",
    20: "MISMATCH",
    21: "MISUSE",
    22: "NOLFS",
    23: "AUTH",
    279: "AUTH_USER",
    24: "FORMAT",
    25: "RANGE",
    26: "NOTADB",
    27: "NOTICE",
    283: "NOTICE_RECOVER_WAL",
    539: "NOTICE_RECOVER_ROLLBACK",
    795: "NOTICE_RBU",
    28: "WARNING",
    284: "WARNING_AUTOINDEX",
    100: "ROW",
    101: "DONE",
}
CODES: Final[dict[str, int]] = {f"SQLITE_{name}": code for code, name in _NAMES.items()}


def code_name(code: int) -> str:
    """`SQLITE_CONSTRAINT_UNIQUE` of 2067; of an extended code that is not known, its primary one's name."""
    name = _NAMES.get(code) or _NAMES.get(code & 0xFF)
    return f"SQLITE_{name}" if name else "unknown"
