"""What bad bytes are told: the one exception that any decoder of this package raises."""

from __future__ import annotations

from typing import Final

CODE_ERROR: Final = 1  # SQLITE_ERROR
CODE_PROTO: Final = 1001
CODE_NOTFOUND: Final = 1002
CODE_PARSE: Final = 1005


class ProtocolViolation(Exception):
    """The peer's bytes break the protocol.

    `code`: the failure code to answer with; None: close without an answer.
    `is_fatal`: the connection is to be closed (after the answer); else only this message is refused, its frame being
    whole, and the connection goes on as dqlite's does.
    """

    def __init__(self, message: str, *, code: int | None = None, is_fatal: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.is_fatal = is_fatal

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.message, self.code, self.is_fatal))


def refused(message: str, code: int) -> ProtocolViolation:
    """One message is refused with `code`, the connection goes on."""
    return ProtocolViolation(message, code=code, is_fatal=False)


def _rebuild(message: str, code: int | None, is_fatal: bool) -> ProtocolViolation:
    return ProtocolViolation(message, code=code, is_fatal=is_fatal)
