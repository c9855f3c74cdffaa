"""What a FAILURE of a stock server, or a broken connection, means for the request. Pure.

Three answers: an errors.Error is the statement's own; Refused: nothing happened, and asking again may help; Doubtful:
of a write nobody knows, of anything else nothing happened. Codes: docs/dqlite-protocol.md and dqlite's leader.c.
"""

from __future__ import annotations

from typing import Final

from dqlite_py.errors import DatabaseLocked, Error, NotLeader, NotSupportedError
from dqlite_py.resultcodes import error_from_code
from dqlite_py.sqlite_codes import (
    ABORT,
    BUSY,
    BUSY_SNAPSHOT,
    CONSTRAINT,
    FULL,
    IOERR,
    LOCKED,
    NOMEM,
    NOTFOUND,
)
from dqlite_py.wire.dqlite.responses import Failure, Response, Result

_BUSY: Final = (BUSY, LOCKED)
_UNDER_WAY: Final = (IOERR, ABORT)  # ABORT of dqlite 1.11: the server stopped while the write was on its way
_NOT_LEADER: Final = (10250, 8202)  # the second of each pair: releases before 2021
_LEADERSHIP_LOST: Final = (10506, 8458)
_LOG_TROUBLE: Final = (NOMEM, FULL)
_NO_TRANSACTION: Final = "no transaction is active"
_PROTOCOL: Final = (1001, 1005)
_RAFT_TEXTS: Final = ("server is shutting down", "operation canceled", "no connection to remote server")


def committed(response: Response) -> None:
    """`checked` of the answer to a COMMIT: in doubt is whatever SQLite itself has not refused, the errors of the log
    above all: others may have the entry."""
    try:
        checked(response)
    except Error as error:
        is_own = error.code is None or error.code & 0xFF == CONSTRAINT or _NO_TRANSACTION in error.message
        if is_own:
            raise
        raise Doubtful(f"{error.message} (code {error.code})") from None
    if not isinstance(response, Result):
        raise Doubtful(f"{type(response).__name__} in answer to COMMIT")


def is_of_the_log(error: Error) -> bool:
    """Of a write: whether it may be the log's own trouble, after which the entry may be committed by others."""
    return error.code is not None and error.code & 0xFF in _LOG_TROUBLE


class Refused(Exception):
    """Nothing happened. `error`: what to say when the time is over; `elsewhere`: this server does not lead."""

    def __init__(self, error: Error, *, elsewhere: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.elsewhere = elsewhere


class Doubtful(Exception):
    """The server cannot tell, or the connection broke."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def checked(response: Response) -> Response:
    """Anything but a FAILURE; raises Error, Refused or Doubtful for one."""
    if not isinstance(response, Failure):
        return response
    code, message = response
    if code in _NOT_LEADER or (code == NOTFOUND and message.startswith("no database")):
        raise Refused(NotLeader(f"the server does not lead: {message}"), elsewhere=True)
    if code & 0xFF in _BUSY and code != BUSY_SNAPSHOT:
        raise Refused(DatabaseLocked(message, code=code), elsewhere=False)
    if code in _LEADERSHIP_LOST or code & 0xFF in _UNDER_WAY or message in _RAFT_TEXTS:
        raise Doubtful(f"{message} (code {code})")
    if code in _PROTOCOL:
        raise NotSupportedError(f"the dqlite server does not understand the request: {message} (code {code})")
    raise error_from_code(code & 0x7FFFFFFF, message)
