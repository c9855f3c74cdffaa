"""Items of msgpack, read and written as msgpack.c does: one at a time, containers as their header only."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

_INT64_MAX: Final = 2**63 - 1


class Kind(IntEnum):
    NIL = 0
    BOOL = 1
    INT = 2
    BIG_UINT = 3  # above INT64_MAX: fits no SQL integer
    FLOAT = 4
    TEXT = 5
    BLOB = 6
    ARRAY = 7
    MAP = 8
    EXT = 9


class Item(NamedTuple):
    """`value` is the number, the bytes, or what a container holds: items of an ARRAY, pairs of a MAP."""

    kind: Kind
    value: int | float | bytes | None


class Malformed(Exception):
    """The end of the bytes, or a byte that begins no item."""


_NIL: Final = Item(Kind.NIL, None)
_SMALL: Final = [Item(Kind.INT, n) for n in range(128)]
_FLOATS: Final = {0xCA: Struct(">f"), 0xCB: Struct(">d")}


class ItemReader:
    """Reads `data` from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == self._size

    def read(self) -> Item:
        """Next item; raises Malformed."""
        if self._at == self._size:
            raise Malformed
        mark = self._data[self._at]
        self._at += 1
        if mark < 0x80:
            return _SMALL[mark]
        if mark >= 0xE0:
            return Item(Kind.INT, mark - 0x100)
        if mark < 0xA0:
            return Item(Kind.MAP if mark < 0x90 else Kind.ARRAY, mark & 0x0F)
        if mark < 0xC0:
            return Item(Kind.TEXT, self._take(mark & 0x1F))
        return self._read_marked(mark)

    def _read_marked(self, mark: int) -> Item:
        if mark == 0xC0:
            return _NIL
        if mark in (0xC2, 0xC3):
            return Item(Kind.BOOL, mark & 1)
        if 0xC4 <= mark <= 0xC6:
            return Item(Kind.BLOB, self._take(self._take_unsigned(1 << (mark - 0xC4))))
        if 0xC7 <= mark <= 0xC9:
            return Item(Kind.EXT, self._take(self._take_unsigned(1 << (mark - 0xC7)) + 1))
        if mark in _FLOATS:
            number: float = _FLOATS[mark].unpack(self._take(_FLOATS[mark].size))[0]
            return Item(Kind.FLOAT, number)
        if 0xCC <= mark <= 0xCF:
            value = self._take_unsigned(1 << (mark - 0xCC))
            return Item(Kind.BIG_UINT, _INT64_MAX) if value > _INT64_MAX else Item(Kind.INT, value)
        if 0xD0 <= mark <= 0xD3:
            return Item(Kind.INT, int.from_bytes(self._take(1 << (mark - 0xD0)), "big", signed=True))
        if 0xD4 <= mark <= 0xD8:
            return Item(Kind.EXT, self._take((1 << (mark - 0xD4)) + 1))
        if 0xD9 <= mark <= 0xDB:
            return Item(Kind.TEXT, self._take(self._take_unsigned(1 << (mark - 0xD9))))
        if mark in (0xDC, 0xDD):
            return Item(Kind.ARRAY, self._take_unsigned(2 << (mark - 0xDC)))
        if mark in (0xDE, 0xDF):
            return Item(Kind.MAP, self._take_unsigned(2 << (mark - 0xDE)))
        raise Malformed  # 0xC1

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > self._size:
            raise Malformed
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _take_unsigned(self, width: int) -> int:
        return int.from_bytes(self._take(width), "big")


class ItemWriter:
    """Appends items. With `discard` nothing is stored at all."""

    def __init__(self) -> None:
        self.discard = False
        self._data = bytearray()

    @property
    def size(self) -> int:
        return len(self._data)

    def cut(self, size: int) -> None:
        """Drop all behind the first `size` bytes."""
        del self._data[size:]

    def content(self) -> bytes:
        return bytes(self._data)

    def put_raw(self, data: bytes | bytearray) -> None:
        """Append msgpack that is ready as it is."""
        self._put(data)

    def from_place(self, place: int) -> bytes:
        """What was appended from there on."""
        return bytes(self._data[place:])

    def put_nil(self) -> None:
        self._put_marked(0xC0, 0, 0)

    def put_int(self, value: int) -> None:
        if -32 <= value < 128:
            self._put_marked(value & 0xFF, 0, 0)
        elif value < 0:
            self._put_marked(0xD3, value & (2**64 - 1), 8)
        elif value < 1 << 8:
            self._put_marked(0xCC, value, 1)
        elif value < 1 << 16:
            self._put_marked(0xCD, value, 2)
        elif value < 1 << 32:
            self._put_marked(0xCE, value, 4)
        else:
            self._put_marked(0xCF, value, 8)

    def put_float(self, value: float) -> None:
        self._put(b"\xcb" + _FLOATS[0xCB].pack(value))

    def put_text(self, text: bytes) -> None:
        if len(text) < 32:
            self._put_marked(0xA0 | len(text), 0, 0)
        else:
            self._put_size(0xD9, len(text))
        self._put(text)

    def put_blob(self, blob: bytes) -> None:
        self._put_size(0xC4, len(blob))
        self._put(blob)

    def put_array(self, count: int) -> None:
        if count < 16:
            self._put_marked(0x90 | count, 0, 0)
        elif count < 1 << 16:
            self._put_marked(0xDC, count, 2)
        else:
            self._put_marked(0xDD, count, 4)

    def put_open_array(self) -> int:
        """An array whose length is known only later: returns the place to pass to `set_array`."""
        place = len(self._data)
        self._put_marked(0xDD, 0, 4)
        return place

    def set_array(self, place: int, count: int) -> None:
        self._set(place, count.to_bytes(4, "big"))

    def put_open_int(self) -> int:
        """The same for an integer."""
        place = len(self._data)
        self._put_marked(0xD3, 0, 8)
        return place

    def set_int(self, place: int, value: int) -> None:
        self._set(place, value.to_bytes(8, "big", signed=True))

    def _put_size(self, mark8: int, size: int) -> None:
        if size < 1 << 8:
            self._put_marked(mark8, size, 1)
        elif size < 1 << 16:
            self._put_marked(mark8 + 1, size, 2)
        else:
            self._put_marked(mark8 + 2, size, 4)

    def _put_marked(self, mark: int, value: int, width: int) -> None:
        self._put((mark << 8 * width | value).to_bytes(1 + width, "big"))

    def _put(self, data: bytes | bytearray) -> None:
        if not self.discard:
            self._data += data

    def _set(self, place: int, data: bytes) -> None:
        if not self.discard:
            self._data[place + 1 : place + 1 + len(data)] = data
