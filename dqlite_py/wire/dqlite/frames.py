"""The handshake and the frames (dqlite's wire protocol, "Setup" and "Message framing").

offset  bytes  handshake, once, client to server; the server answers nothing
0       8      version: 1, or the legacy 0x86104dd760433fe5

offset  bytes  frame
0       4      body length in words of 8 bytes, at least 1
4       1      type
5       1      schema
6       2      zero
8       -      body
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from dqlite_py.wire.dqlite.primitives import WORD_BYTES
from dqlite_py.wire.dqlite.violations import CODE_PARSE, ProtocolViolation

_HEADER: Final = struct.Struct("<IBBH")
HEADER_BYTES: Final = _HEADER.size


class Version(enum.IntEnum):
    """What a client opens with."""

    V1 = 1
    LEGACY = 0x86104DD760433FE5


class Frame(NamedTuple):
    """One message, its body not yet looked at."""

    type: int
    schema: int
    body: bytes


def encode_handshake(version: Version) -> bytes:
    """The first 8 bytes of a connection."""
    return struct.pack("<Q", version)


def decode_handshake(first: bytes) -> Version:
    """The version in exactly 8 bytes; an unknown one is a violation without an answer."""
    if len(first) != WORD_BYTES:
        raise ProtocolViolation(f"a handshake of {len(first)} bytes")
    try:
        return Version(int.from_bytes(first, "little"))
    except ValueError:
        raise ProtocolViolation("unknown protocol version") from None


def encode_frame(frame: Frame) -> bytes:
    """Header and body. The body is whole words and not empty, else ValueError."""
    return encode_header(len(frame.body), frame.type, frame.schema) + frame.body


def encode_header(body_bytes: int, kind: int, schema: int = 0) -> bytes:
    """The header of a frame whose body is sent in pieces. ValueError unless the body is whole words and not empty."""
    words, rest = divmod(body_bytes, WORD_BYTES)
    if rest or not words:
        raise ValueError(f"a body of {body_bytes} bytes")
    return _HEADER.pack(words, kind, schema, 0)


class FrameReader:
    """Cuts a stream into frames.

    `body_bytes_max` may be changed between frames. A caller that stops reading its socket while `holds_frame` makes it
    hold one frame and one `feed` at most.
    """

    __slots__ = ("_buffer", "_violation", "body_bytes_max")

    def __init__(self, body_bytes_max: int) -> None:
        self.body_bytes_max = body_bytes_max
        self._buffer = bytearray()
        self._violation: ProtocolViolation | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes held."""
        return len(self._buffer)

    @property
    def holds_frame(self) -> bool:
        """Whether `next_frame` has something to say without another `feed`: a frame, or a violation."""
        if self._violation is not None:
            return True
        if len(self._buffer) < HEADER_BYTES:
            return False
        length = int.from_bytes(self._buffer[:4], "little") * WORD_BYTES
        return not 0 < length <= self.body_bytes_max or len(self._buffer) >= HEADER_BYTES + length

    def feed(self, received: bytes) -> None:
        """Append what was received."""
        if self._violation is None:
            self._buffer += received

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None. Raises ProtocolViolation as soon as a header is wrong, and ever after."""
        if self._violation is not None:
            raise self._violation
        if len(self._buffer) < HEADER_BYTES:
            return None
        words, kind, schema, _ = _HEADER.unpack_from(self._buffer)
        length = words * WORD_BYTES
        if not length:
            raise self._fail(ProtocolViolation("empty message", code=CODE_PARSE))
        if length > self.body_bytes_max:
            raise self._fail(
                ProtocolViolation(
                    f"a message of {length} bytes, at most {self.body_bytes_max}", code=CODE_PARSE
                )
            )
        end = HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[HEADER_BYTES:end])
        del self._buffer[:end]
        return Frame(kind, schema, body)

    def _fail(self, violation: ProtocolViolation) -> ProtocolViolation:
        self._violation = violation
        self._buffer.clear()
        return violation
