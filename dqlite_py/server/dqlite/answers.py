"""Answers as bytes for the socket."""

from __future__ import annotations

import struct
from typing import Final

from dqlite_py.wire.dqlite.frames import encode_frame
from dqlite_py.wire.dqlite.responses import Empty, Failure, Response, ResponseType, encode_response

_RESULT: Final = struct.Struct("<IBBHqQ")


def encode(response: Response) -> bytes:
    """The frame of any response."""
    return encode_frame(encode_response(response))


def failure(about: Failure) -> bytes:
    return encode(about)


def result(rowid: int, changes: int) -> bytes:
    """As `encode`, of the response that writes are answered with."""
    return _RESULT.pack(2, ResponseType.RESULT, 0, 0, rowid, changes)


EMPTY: Final = encode(Empty())
