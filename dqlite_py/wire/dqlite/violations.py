"""What bad bytes are told: the one exception that any decoder of this package raises."""

from __future__ import annotations

from typing import Final

CODE_PROTO: Final = 1001
CODE_NOTFOUND: Final = 1002
CODE_PARSE: Final = 1005


class ProtocolViolation(Exception):
    """The peer's bytes break the protocol.

    `code`: the failure code to answer with before the connection is closed; None: close without an answer.
    """

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.message, self.code))


def _rebuild(message: str, code: int | None) -> ProtocolViolation:
    return ProtocolViolation(message, code=code)
