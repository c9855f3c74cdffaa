"""Integers, text and blobs, little endian and padded to words of 8 bytes (dqlite's wire protocol, "Data types").

text: UTF-8 bytes, NUL, zeros to the next word.  blob: uint64 length, bytes, zeros to the next word.
"""

from __future__ import annotations

import struct
from typing import Final

from dqlite_py.wire.dqlite.violations import CODE_ERROR, ProtocolViolation, refused

WORD_BYTES: Final = 8
_ENDS: Final = tuple(bytes(WORD_BYTES - over) for over in range(WORD_BYTES))  # of a text: NUL and zeros
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_I64: Final = struct.Struct("<q")
_DOUBLE: Final = struct.Struct("<d")


def padding(length: int) -> bytes:
    """The zeros that fill `length` bytes up to whole words."""
    return bytes(-length % WORD_BYTES)


def encode_uint32(value: int) -> bytes:
    """4 bytes; two of them fill a word."""
    return _U32.pack(value)


def encode_uint64(value: int) -> bytes:
    """One word."""
    return _U64.pack(value)


def encode_int64(value: int) -> bytes:
    """One word."""
    return _I64.pack(value)


def encode_double(value: float) -> bytes:
    """One word."""
    return _DOUBLE.pack(value)


def encode_text(text: str) -> bytes:
    """`text` up to its first NUL, which the format cannot hold; lone surrogates become question marks."""
    if "\0" in text:
        text = text.partition("\0")[0]
    raw = text.encode("utf-8", "replace")
    return raw + _ENDS[len(raw) % WORD_BYTES]


def encode_blob(blob: bytes) -> bytes:
    """The length, then the bytes in whole words."""
    return _U64.pack(len(blob)) + blob + padding(len(blob))


class BodyReader:
    """Reads a body from its start; every method raises ProtocolViolation where the body is too short or wrong."""

    __slots__ = ("_body", "_position")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    @property
    def position(self) -> int:
        """Bytes read."""
        return self._position

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._body) - self._position

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        if length > self.remaining:
            raise ProtocolViolation(f"{length} bytes announced, {self.remaining} present")
        start = self._position
        self._position = start + length
        return self._body[start : self._position]

    def align(self) -> None:
        """Skip to the next word."""
        self.take(-self._position % WORD_BYTES)

    def uint8(self) -> int:
        """0..255."""
        return self.take(1)[0]

    def uint32(self) -> int:
        """0..2^32-1."""
        return int(_U32.unpack(self.take(4))[0])

    def uint64(self) -> int:
        """0..2^64-1."""
        return int(_U64.unpack(self.take(8))[0])

    def int64(self) -> int:
        """-2^63..2^63-1."""
        return int(_I64.unpack(self.take(8))[0])

    def double(self) -> float:
        """An IEEE 754 double."""
        return float(_DOUBLE.unpack(self.take(8))[0])

    def text(self, bytes_max: int | None = None) -> str:
        """A text. What is not UTF-8 or longer than `bytes_max` refuses the message: its end is known all the same."""
        end = self._body.find(b"\0", self._position)
        if end < 0:
            raise ProtocolViolation("a text has no end")
        if bytes_max is not None and end - self._position > bytes_max:
            raise refused(f"a text of {end - self._position} bytes, at most {bytes_max}", CODE_ERROR)
        raw = self.take(end - self._position)
        self.take(1)
        self.align()
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise refused("a text is not UTF-8", CODE_ERROR) from None

    def blob(self) -> bytes:
        """A blob; its length is checked before anything is copied."""
        blob = self.take(self.uint64())
        self.align()
        return blob

    def finish(self) -> None:
        """Nothing may follow."""
        if self.remaining:
            raise ProtocolViolation(f"{self.remaining} bytes after the message")
