"""Frames of the peer protocol, without I/O: bytes in, messages out; messages in, bytes out.

A frame (big-endian):
  offset  size  field
       0     3  magic d1 6c 70
       3     1  frame format version, 1
       4     1  frame type (FrameType)
       5     1  flags; bit 0: fragment
       6     2  reserved, zero
       8     4  length of the body
      12     4  crc32 of bytes 0..12 and the body
      16     n  body
The body of a fragment starts with message id u64, total u32, offset u32; its data follow. Every fragment but
the last carries FRAME_FRAGMENT_BYTES of data. Lengths are judged BEFORE the bytes they promise are kept.
The checksum is zlib's: it keeps the GIL for small frames, which costs less than to give it up on the loop thread.
The content of a body is not looked at here. Used by raft/connection.py on the loop thread.
"""

from __future__ import annotations

import enum
import itertools
import random
import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zlib import crc32

from dqlite_py.errors import MalformedMessage, RequestTooLarge, UnknownFormat
from dqlite_py.limits import (
    FRAME_BYTES_MAX,
    FRAME_FRAGMENT_BYTES,
    HANDSHAKE_BYTES_MAX,
    PARTIAL_MESSAGES_MAX,
)

MAGIC: Final = b"\xd1lp"
FRAME_VERSION: Final = 1
_HEAD = struct.Struct(">3sBBBHI")
_CRC = struct.Struct(">I")
_WHOLE_HEAD = struct.Struct(">IBxxxI")  # of a message in one frame: magic and version as one, no flags
_HEADER = struct.Struct(">IBBHII")
_MAGIC_VERSION: Final = int.from_bytes(MAGIC + bytes([FRAME_VERSION]), "big")
_PIECE = struct.Struct(">QII")
HEADER_BYTES: Final = _HEAD.size + _CRC.size
_FRAME_OVERHEAD_BYTES: Final = HEADER_BYTES + _PIECE.size  # at most
_FLAG_FRAGMENT: Final = 1


class FrameType(enum.IntEnum):
    """What a frame's body holds (wire/handshake.py, wire/peer.py, wire/rpc.py)."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    PING = 4
    PONG = 5
    RAFT = 6
    REQUEST = 7
    RESPONSE = 8


_TYPES: Final = {int(kind): kind for kind in FrameType}
_MAY_BE_CUT: Final = frozenset({FrameType.RAFT, FrameType.REQUEST, FrameType.RESPONSE})


class Received(NamedTuple):
    """A whole message."""

    type: FrameType
    body: bytes | bytearray


_new_tuple = tuple.__new__  # a NamedTuple's own constructor is a Python call


def starts_like_a_frame(data: bytes | bytearray) -> bool | None:
    """Whether a connection's first bytes are this protocol's; None: too few to tell."""
    if data[:3] != MAGIC[: len(data)]:
        return False
    return True if len(data) >= 3 else None


# Ids only tell apart the messages in flight on one connection; one counter serves all connections, so that
# the frames of a message are the same bytes for every peer.
_message_ids = itertools.count(random.getrandbits(48))


class OutgoingMessage:
    """A message to be cut in frames; made once, sent on any number of connections.

    Raises RequestTooLarge when the body is over FRAME_BYTES_MAX.
    """

    __slots__ = ("_body", "_frames", "_id", "frame_count", "only_frame", "size_bytes", "type")

    def __init__(self, kind: FrameType, body: bytes) -> None:
        size = len(body)
        self.type = kind
        if size <= FRAME_FRAGMENT_BYTES:
            head = _WHOLE_HEAD.pack(_MAGIC_VERSION, kind, size)
            self.only_frame: bytes | None = b"".join((head, _CRC.pack(crc32(body, crc32(head))), body))
            self.frame_count = 1
            self.size_bytes = size + _FRAME_OVERHEAD_BYTES
            return
        if size > FRAME_BYTES_MAX:
            raise RequestTooLarge(f"a message of {size} bytes is over the limit of {FRAME_BYTES_MAX}")
        if kind not in _MAY_BE_CUT:
            raise RequestTooLarge(f"a {kind.name} of {size} bytes is over the limit")
        self.only_frame = None
        self._body = body
        self._frames: list[tuple[bytes | memoryview, ...]] = []
        self._id = next(_message_ids)
        self.frame_count = -(-size // FRAME_FRAGMENT_BYTES)
        self.size_bytes = size + self.frame_count * _FRAME_OVERHEAD_BYTES

    def frame(self, position: int) -> tuple[bytes | memoryview, ...]:
        """The pieces of frame `position`; a fragment is made on first use: a huge message costs little at once."""
        if self.only_frame is not None:
            return (self.only_frame,)
        while len(self._frames) <= position:
            self._frames.append(self._fragment(len(self._frames)))
        return self._frames[position]

    def _fragment(self, position: int) -> tuple[bytes | memoryview, ...]:
        offset = position * FRAME_FRAGMENT_BYTES
        data = memoryview(self._body)[offset : offset + FRAME_FRAGMENT_BYTES]
        piece = _PIECE.pack(self._id, len(self._body), offset)
        head = _HEAD.pack(MAGIC, FRAME_VERSION, self.type, _FLAG_FRAGMENT, 0, len(piece) + len(data))
        checksum = crc32(data, crc32(head + piece))
        return (b"".join((head, _CRC.pack(checksum), piece)), data)


def encode_frames(kind: FrameType, body: bytes) -> bytes:
    """All frames of a message in one piece (handshakes and tests)."""
    message = OutgoingMessage(kind, body)
    return b"".join(piece for position in range(message.frame_count) for piece in message.frame(position))


@dataclass(slots=True)
class _Partial:
    type: FrameType
    total: int
    data: bytearray = field(default_factory=bytearray)


class FrameDecoder:
    """Bytes of one connection to messages; holds at most one frame, one chunk fed and `pending_bytes_max`.

    A chunk that begins with a frame is parsed where it is; only what is left of it is copied, when more is fed.

    Before `established` the peer may send HANDSHAKE_BYTES_MAX in all. After an error the decoder is dead:
    it raises the same error for ever, and the connection must be closed.
    """

    __slots__ = (
        "_buffer",
        "_dead",
        "_established",
        "_fed",
        "_message_max",
        "_partials",
        "_position",
        "has_more",
    )

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._fed = 0
        self._established = False
        self._message_max = HANDSHAKE_BYTES_MAX
        self._partials: dict[int, _Partial] = {}
        self._dead: MalformedMessage | UnknownFormat | None = None
        self.has_more = False  # bytes are left that `next_message` has not judged

    @property
    def pending_bytes(self) -> int:
        """Bytes held for messages that are not complete."""
        return len(self._buffer) - self._position + sum(len(p.data) for p in self._partials.values())

    @property
    def pending_bytes_max(self) -> int:
        """What the partly received messages may promise together."""
        return 2 * self._message_max

    def established(self, message_max: int = FRAME_BYTES_MAX) -> None:
        """The handshake is over: messages up to `message_max` are welcome."""
        self._established = True
        self._message_max = message_max

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take a chunk; call `next_message` until it returns None before feeding again."""
        if self._dead is not None:
            raise self._dead
        self._fed += len(data)
        self.has_more = True
        buffer = self._buffer
        if self._position == len(buffer):
            self._buffer = data if type(data) is bytes else bytes(data)
        elif type(buffer) is bytearray:
            del buffer[: self._position]
            buffer += data
        else:
            self._buffer = joined = bytearray(memoryview(buffer)[self._position :])
            joined += data
        self._position = 0

    def next_message(self) -> Received | None:
        """The next whole message or None; raises MalformedMessage or UnknownFormat."""
        if self._dead is not None:
            raise self._dead
        buffer, start = self._buffer, self._position
        # A message in one frame, wholly in this chunk; everything else and every error goes the long way.
        if len(buffer) - start >= HEADER_BYTES and type(buffer) is bytes:
            begin, number, flags, reserved, length, checksum = _HEADER.unpack_from(buffer, start)
            end = start + HEADER_BYTES + length
            if (
                begin == _MAGIC_VERSION
                and not flags
                and not reserved
                and length <= FRAME_FRAGMENT_BYTES
                and length <= self._message_max
                and end <= len(buffer)
            ):
                body = buffer[start + HEADER_BYTES : end]
                kind = _TYPES.get(number)
                if kind is not None and crc32(body, crc32(buffer[start : start + _HEAD.size])) == checksum:
                    if end == len(buffer):
                        self._buffer, end = b"", 0
                        self.has_more = False
                    self._position = end
                    return _new_tuple(Received, (kind, body))
        return self._next_the_long_way()

    def _next_the_long_way(self) -> Received | None:
        self.has_more = False
        try:
            # Only here, since one chunk may hold the handshake and what follows it.
            while True:
                message, again = self._next_frame()
                if not again:
                    if not self._established and self._fed > HANDSHAKE_BYTES_MAX and message is None:
                        raise MalformedMessage("too many bytes before the handshake", what="handshake")
                    self.has_more = message is not None
                    return message
        except (MalformedMessage, UnknownFormat) as error:
            self._dead = error
            self._buffer = b""
            self._partials.clear()
            self._position = 0
            raise

    def _next_frame(self) -> tuple[Received | None, bool]:
        """A message if one is complete, and whether to look again (a fragment was taken)."""
        start = self._position
        available = len(self._buffer) - start
        if available < _HEAD.size:
            _check_start(self._buffer, start)
            return None, False
        magic, version, number, flags, reserved, length = _HEAD.unpack_from(self._buffer, start)
        kind = self._check_head(magic, version, number, flags, reserved, length)
        if available < HEADER_BYTES + length:
            return None, False
        body_start = start + HEADER_BYTES
        (expected,) = _CRC.unpack_from(self._buffer, start + _HEAD.size)
        with memoryview(self._buffer) as view, view[body_start : body_start + length] as body:
            head = bytes(view[start : start + _HEAD.size])
            if flags:
                _check_crc(head, body, expected)
                message = self._take_fragment(kind, body)
            else:
                whole = bytes(body)
                _check_crc(head, whole, expected)
                message = Received(kind, whole)
        self._position = body_start + length
        return message, message is None

    def _check_head(
        self, magic: bytes, version: int, number: int, flags: int, reserved: int, length: int
    ) -> FrameType:
        if magic != MAGIC:
            raise MalformedMessage(f"frame magic is {magic.hex()}, expected {MAGIC.hex()}", what="magic")
        if version != FRAME_VERSION:
            raise UnknownFormat(
                f"frame format {version} is not known to this release (it knows {FRAME_VERSION})",
                source="peer protocol frame",
                version=version,
            )
        kind = _TYPES.get(number)
        if kind is None or reserved or flags not in (0, _FLAG_FRAGMENT):
            raise MalformedMessage(
                f"frame of type {number}, flags {flags}, reserved {reserved}", what="header"
            )
        if flags and (kind not in _MAY_BE_CUT or not self._established):
            raise MalformedMessage(f"a {kind.name} cannot come in fragments", what="fragment")
        if flags:
            allowed = _PIECE.size + FRAME_FRAGMENT_BYTES
        else:
            allowed = min(FRAME_FRAGMENT_BYTES, self._message_max)
        if length > allowed:
            raise MalformedMessage(f"a frame of {length} bytes is over the limit of {allowed}", what="length")
        return kind

    def _take_fragment(self, kind: FrameType, body: memoryview) -> Received | None:
        if len(body) <= _PIECE.size:
            raise MalformedMessage("a fragment without data", what="fragment")
        message_id, total, offset = _PIECE.unpack_from(body)
        partial = self._partials.get(message_id)
        if partial is None:
            partial = self._begin_partial(message_id, kind, total)
        size = len(body) - _PIECE.size
        if (kind, total, offset) != (partial.type, partial.total, len(partial.data)):
            raise MalformedMessage(
                f"fragment of {kind.name} {offset}/{total} where {partial.type.name} "
                f"{len(partial.data)}/{partial.total} goes on",
                what="fragment order",
            )
        if size != min(FRAME_FRAGMENT_BYTES, total - offset):
            raise MalformedMessage(f"a fragment of {size} bytes at {offset} of {total}", what="fragment size")
        with body[_PIECE.size :] as data:
            partial.data += data
        if len(partial.data) < total:
            return None
        del self._partials[message_id]
        return Received(kind, partial.data)

    def _begin_partial(self, message_id: int, kind: FrameType, total: int) -> _Partial:
        if not FRAME_FRAGMENT_BYTES < total <= self._message_max:
            raise MalformedMessage(
                f"a message of {total} bytes in fragments is outside the limit of {self._message_max}",
                what="total",
            )
        if len(self._partials) >= PARTIAL_MESSAGES_MAX:
            raise MalformedMessage("too many messages in fragments at once", what="fragments")
        if total + sum(p.total for p in self._partials.values()) > self.pending_bytes_max:
            raise MalformedMessage("too many bytes in fragments at once", what="fragments")
        partial = self._partials[message_id] = _Partial(kind, total)
        return partial


def _check_crc(head: bytes, body: bytes | memoryview, expected: int) -> None:
    found = crc32(body, crc32(head))
    if found != expected:
        raise MalformedMessage(f"frame checksum is {found:08x}, expected {expected:08x}", what="checksum")


def _check_start(buffer: bytes | bytearray, start: int) -> None:
    """Refuse foreign bytes at once instead of waiting for a whole header."""
    begun = bytes(buffer[start : start + 3])
    if begun != MAGIC[: len(begun)]:
        raise MalformedMessage(f"frame magic is {begun.hex()}, expected {MAGIC.hex()}", what="magic")
