"""What a client hears of an error: dqlite's and SQLite's numbers, and a text. A total table over the error tree.

10250 tells clients to look for the leader: certainly nothing happened. 10506 says that nobody knows whether a write
did; but go-dqlite sends again by itself what was answered so outside a transaction, so there it is 10.
"""

from __future__ import annotations

from typing import Final

from dqlite_py.errors import (
    Busy,
    DataError,
    Error,
    IntegrityError,
    JournalFailed,
    MembershipRefused,
    NeverApplied,
    NodeStopped,
    NoLeader,
    NotLeader,
    NotSupportedError,
    Outcome,
    Overwritten,
    RequestTooLarge,
    StorageFull,
    TooStale,
    TransactionEnded,
    is_database_missing,
)
from dqlite_py.sqlite_codes import ABORT_ROLLBACK, AUTH, CONSTRAINT, FULL, IOERR, MISMATCH, NOTFOUND, TOOBIG
from dqlite_py.sqlite_codes import BUSY as BUSY
from dqlite_py.sqlite_codes import ERROR as ERROR
from dqlite_py.sqlite_codes import NOMEM as NOMEM
from dqlite_py.sqlite_codes import PROTOCOL as PROTOCOL
from dqlite_py.sqlite_codes import READONLY as READONLY
from dqlite_py.wire.dqlite.responses import Failure

NOT_LEADER: Final = 10250
LEADERSHIP_LOST: Final = 10506

REPEATED: Final = (NOT_LEADER, BUSY, NOTFOUND)  # clients send the request again by themselves

LOST: Final = Failure(NOT_LEADER, "not leader")
NO_DATABASE: Final = Failure(NOTFOUND, "no database opened")
NO_STATEMENT: Final = Failure(NOTFOUND, "no statement with the given id")
EMPTY_STATEMENT: Final = Failure(0, "empty statement")
TAIL: Final = Failure(ERROR, "nonempty statement tail")
ROWS_YIELDED: Final = Failure(ERROR, "rows yielded when none expected for EXEC request")
PARAMETERS: Final = Failure(ERROR, "bind parameters")

_CODES: Final[tuple[tuple[type[Error], int], ...]] = (  # the first that fits
    (NotLeader, NOT_LEADER),
    (NoLeader, NOT_LEADER),
    (NodeStopped, NOT_LEADER),
    (Overwritten, NOT_LEADER),
    (NeverApplied, NOT_LEADER),
    (TooStale, NOT_LEADER),
    (TransactionEnded, ABORT_ROLLBACK),
    (JournalFailed, LEADERSHIP_LOST),
    (Busy, BUSY),
    (StorageFull, FULL),
    (RequestTooLarge, TOOBIG),
    (IntegrityError, CONSTRAINT),
    (DataError, MISMATCH),
    (NotSupportedError, AUTH),
    (MembershipRefused, ERROR),
)


class Refused(Exception):
    """A request that is answered with this failure; the connection goes on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    def __reduce__(self) -> tuple[object, ...]:
        return (Refused, (self.failure,))


def failure_of(error: Error, *, is_alone: bool = False) -> Failure:
    """The failure to answer with. `is_alone`: of SQL outside a transaction, which a client may send again by itself."""
    if error.outcome is Outcome.UNKNOWN:
        return in_doubt(error.message, is_alone=is_alone)
    if error.outcome is Outcome.APPLIED:
        return Failure(IOERR, _unlocked(error.message))
    if is_database_missing(error):
        return NO_DATABASE
    if error.code is not None:
        return Failure(error.code, error.message)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return Failure(code, f"not leader: {error.message}" if code == NOT_LEADER else error.message)
    return Failure(ERROR, error.message)


def in_doubt(why: str, *, is_alone: bool) -> Failure:
    """Nobody can tell whether it happened, or a part of it did."""
    if is_alone:
        return Failure(IOERR, f"outcome unknown, do not repeat it blindly: {_unlocked(why)}")
    return Failure(LEADERSHIP_LOST, f"leadership lost: {why}")


def _unlocked(message: str) -> str:
    """Programs take SQLite's words for permission to send it again, whatever the code is."""
    return message.replace("database is locked", "the database was locked")
