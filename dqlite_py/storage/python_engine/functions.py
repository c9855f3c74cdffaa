"""random(), randomblob() and total_changes() of the writer connection, the same on every node: functions.c."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_int, c_void_p
from typing import Any, Final

import apsw

from dqlite_py.storage.python_engine.sqlite_api import TRANSIENT, address_of, sqlite

_MASK: Final = 2**64 - 1
_INT64_MAX: Final = 2**63 - 1
_SQLITE_UTF8: Final = 1
_SQLITE_INNOCUOUS: Final = 0x200000  # usable in triggers and defaults, as the built-in ones
_NAMES: Final = ((b"random", 0), (b"randomblob", 1), (b"total_changes", 0))
_FUNCTION: Final = ctypes.CFUNCTYPE(None, c_void_p, c_int, POINTER(c_void_p))

State = tuple[int, int, int, int]


def next_random(state: State) -> tuple[int, State]:
    """xoshiro256** (Blackman, Vigna; public domain)."""
    a, b, c, d = state
    result = b * 5 & _MASK
    result = (result << 7 | result >> 57) * 9 & _MASK
    c ^= a
    d ^= b
    return result, (a ^ d, b ^ c, c ^ (b << 17 & _MASK), (d << 45 | d >> 19) & _MASK)


def _split_mix(state: int) -> Iterator[int]:
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        yield z ^ z >> 31


def first_state(seed: bytes, position: int) -> State:
    """The generator of a unit depends on the entry's seed and the unit's position only."""
    low = _split_mix((int.from_bytes(seed[:8], "little") + position * 0xD1342543DE82EF95) & _MASK)
    high = _split_mix(int.from_bytes(seed[8:], "little") ^ position)
    a, b, c, d = (next(low) ^ next(high) for _ in range(4))
    return a | 1, b, c, d  # never all zero


class Functions:
    """Of one connection."""

    def __init__(self, db: int) -> None:
        self._db = db
        self._state: State = (1, 0, 0, 0)
        self._total_changes_start = 0
        # Held as long as SQLite may call them.
        self._callbacks = [_FUNCTION(call) for call in (self._random, self._randomblob, self._total_changes)]

    def install(self) -> int:
        """An SQLite code."""
        for (name, count), callback in zip(_NAMES, self._callbacks, strict=True):
            flags = _SQLITE_UTF8 | _SQLITE_INNOCUOUS
            code: int = sqlite.create_function_v2(
                self._db, name, count, flags, None, address_of(callback), None, None, None
            )
            if code != apsw.SQLITE_OK:
                return code
        return apsw.SQLITE_OK

    def remove(self) -> None:
        for name, count in _NAMES:
            sqlite.create_function_v2(self._db, name, count, _SQLITE_UTF8, None, None, None, None, None)

    def start_chance(self, seed: bytes, position: int) -> None:
        """Of a unit or group."""
        self._state = first_state(seed, position)

    def start_total(self) -> None:
        """Let total_changes() count from here."""
        self._total_changes_start = sqlite.total_changes64(self._db)

    def _next(self) -> int:
        result, self._state = next_random(self._state)
        return result

    # -- called by SQLite -----------------------------------------------------------------------------

    def _random(self, context: int, count: int, values: Any) -> None:
        def answer() -> None:
            value = self._next()
            if value > _INT64_MAX:
                value = -(value & _INT64_MAX)  # as SQLite does: abs() of it never overflows
            sqlite.result_int64(context, value)

        _guarded(context, answer)

    def _randomblob(self, context: int, count: int, values: Any) -> None:
        def answer() -> None:
            size = max(1, sqlite.value_int64(values[0]))
            if size > sqlite.limit(self._db, apsw.SQLITE_LIMIT_LENGTH, -1):
                sqlite.result_error_toobig(context)
                return
            state, words = self._state, bytearray()
            while len(words) < size:
                word, state = next_random(state)
                words += word.to_bytes(8, "little")
            self._state = state
            sqlite.result_blob64(context, bytes(words[:size]), size, TRANSIENT)

        _guarded(context, answer)

    def _total_changes(self, context: int, count: int, values: Any) -> None:
        def answer() -> None:
            changes = sqlite.total_changes64(self._db) - self._total_changes_start
            sqlite.result_int64(context, changes)

        _guarded(context, answer)


def _guarded(context: int, answer: Callable[[], None]) -> None:
    """An exception must not become a value: the node's trouble ends the entry on this node."""
    try:
        answer()
    except MemoryError:
        sqlite.result_error_nomem(context)
    except BaseException:  # noqa: BLE001 - SQLite carries it on as an environmental error
        sqlite.result_error_code(context, apsw.SQLITE_INTERNAL)
