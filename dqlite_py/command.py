"""Log commands to bytes and back: the COMMAND payload of a log entry.

msgpack array, format version first (docs/ARCHITECTURE.md, "What a log entry holds"):
  UNITS  [1, 1, database, now_us, seed(16 bytes), state_hash, [unit, ...]]
  OPEN   [1, 2, database, now_us]      create the database if it does not exist
  DROP   [1, 3, database, now_us]
state_hash is nil or [log index, 8-byte hash]: the leader's state of that database after that entry.
unit is [session, sequence, [[sql, params], ...]]: one client transaction. session is nil (no retries) or
16 bytes (reserved: refused by this release). sql is str, or an int k naming the k-th *string* sql of the
same unit (executemany). params is an array, or a map of names without prefix.
Units are encoded once, by the node that received them, and travel as the same bytes to the disk of every
member; `encode_units` only joins them. storage decodes UNITS payloads in C; this module is the reference.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from struct import Struct
from typing import Any, NamedTuple

import msgpack

from dqlite_py.errors import DataError, InterfaceError, MalformedMessage, RequestTooLarge, UnknownFormat
from dqlite_py.limits import (
    DATABASE_NAME_MAX,
    ENTRY_BYTES_MAX,
    ENTRY_UNITS_MAX,
    STATEMENT_PARAMS_MAX,
    UNIT_BYTES_MAX,
)

COMMAND_VERSION = 1
SqlValue = None | int | float | str | bytes
Params = Sequence[SqlValue] | Mapping[str, SqlValue]
_PLAIN = frozenset({type(None), int, float, str, bytes})
_SEQUENCES = frozenset({list, tuple})


class CommandKind(enum.IntEnum):
    UNITS = 1
    OPEN = 2
    DROP = 3


class StateHash(NamedTuple):
    """The leader's state hash of the command's database after `index`."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    value: int


class CommandHeader(NamedTuple):
    kind: CommandKind
    database: str
    now_us: int
    state_hash: StateHash | None


def check_database_name(name: str) -> str:
    """Return `name` or raise InterfaceError: 1..128 bytes of letters, digits, '.', '_', '-'; not starting with '.'."""
    ok = (
        isinstance(name, str)
        and 0 < len(name) <= DATABASE_NAME_MAX
        and name.isascii()
        and all(ch.isalnum() or ch in "._-" for ch in name)
        and not name.startswith((".", "_dqlite"))
    )
    if not ok:
        raise InterfaceError(
            f"database name {name!r} is not allowed: use 1 to {DATABASE_NAME_MAX} ASCII letters, digits, "
            "'.', '_' or '-', not starting with '.' or '_dqlite'"
        )
    return name


def check_value(value: Any) -> SqlValue:
    """Map a Python parameter to an SQL value; raises InterfaceError or DataError."""
    checked: SqlValue = value
    if value is None or type(value) in (int, float, str, bytes):
        pass
    elif isinstance(value, bool):
        return int(value)
    elif isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    elif isinstance(value, int):
        checked = int(value)
    elif isinstance(value, float):
        checked = float(value)
    elif isinstance(value, str):
        checked = str(value)
    else:
        raise InterfaceError(
            f"parameter of type {type(value).__name__} cannot be stored: use None, int, float, str or bytes"
        )
    if type(checked) is int and not -(2**63) <= checked < 2**63:
        raise DataError(f"integer {checked} is outside SQLite's 64-bit range")
    if type(checked) is str:
        try:
            checked.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"string parameter is not valid UTF-8: {error.reason}") from None
    return checked


def check_params(params: Any) -> list[SqlValue] | dict[str, SqlValue]:
    if isinstance(params, Mapping):
        if not all(isinstance(key, str) for key in params):
            raise InterfaceError("named parameters need string names")
        checked: list[SqlValue] | dict[str, SqlValue] = {key: check_value(v) for key, v in params.items()}
    elif isinstance(params, Sequence) and not isinstance(params, (str, bytes, bytearray)):
        checked = [check_value(v) for v in params]
    else:
        raise InterfaceError(f"parameters must be a sequence or a mapping, not {type(params).__name__}")
    if len(checked) > STATEMENT_PARAMS_MAX:
        raise DataError(f"{len(checked)} parameters: at most {STATEMENT_PARAMS_MAX}")
    return checked


def encode_unit(statements: Iterable[tuple[str, Any]]) -> bytes:
    """Encode one client transaction: (sql, params) pairs, executed in order, all or nothing.

    Raises InterfaceError, DataError or RequestTooLarge; nothing was sent.
    """
    known: dict[str, int] = {}
    rows: list[list[Any]] = []
    for sql, params in statements:
        if not isinstance(sql, str):
            raise InterfaceError(f"SQL must be str, not {type(sql).__name__}")
        ref: str | int
        if sql in known:
            ref = known[sql]
        else:
            known[sql] = len(known)
            ref = sql
        rows.append([ref, params if _is_plain(params) else check_params(params)])
    return _pack_unit(rows)


def encode_repeated(sql: str, parameter_sets: Sequence[Any]) -> bytes:
    """Encode one statement, executed once for each of the parameter sets: as `encode_unit`."""
    if not _are_plain(parameter_sets):
        return encode_unit((sql, params) for params in parameter_sets)
    rows: list[Any] = [(0, params) for params in parameter_sets]
    rows[0] = (sql, parameter_sets[0])
    return _pack_unit(rows)


def _is_plain(params: Any) -> bool:
    """Whether `check_params` would let the parameters pass as they are: most are, and it need not be called."""
    if type(params) is not list and type(params) is not tuple:
        return False
    kinds = set(map(type, params))
    if not kinds <= _PLAIN or len(params) > STATEMENT_PARAMS_MAX:
        return False
    return int not in kinds or all(-(2**63) <= v < 2**63 for v in params if type(v) is int)


def _are_plain(parameter_sets: Sequence[Any]) -> bool:
    """The same for many at once, in few steps."""
    if not parameter_sets or not set(map(type, parameter_sets)) <= _SEQUENCES:
        return False
    kinds = set(map(type, chain.from_iterable(parameter_sets)))
    if not kinds <= _PLAIN or max(map(len, parameter_sets)) > STATEMENT_PARAMS_MAX:
        return False
    if int not in kinds:
        return True
    numbers = [value for params in parameter_sets for value in params if type(value) is int]
    return min(numbers) >= -(2**63) and max(numbers) < 2**63


def _pack_unit(rows: Sequence[Any]) -> bytes:
    if not rows:
        raise InterfaceError("a unit needs at least one statement")
    try:
        data: bytes = msgpack.packb((None, 0, rows), use_bin_type=True)
    except UnicodeEncodeError as error:
        raise DataError(f"SQL or a string parameter is not valid UTF-8: {error.reason}") from None
    if len(data) > UNIT_BYTES_MAX:
        raise RequestTooLarge(f"a unit of {len(data)} bytes is over the limit of {UNIT_BYTES_MAX}: split it")
    return data


def check_unit(data: bytes) -> bytes:
    """Validate a unit that arrived from a peer (shape, not SQL); raises MalformedMessage."""
    if len(data) > UNIT_BYTES_MAX:
        raise RequestTooLarge(f"a unit of {len(data)} bytes is over the limit of {UNIT_BYTES_MAX}")
    unit = _unpack(data, "unit")
    is_triple = isinstance(unit, list) and len(unit) == 3
    if not (is_triple and unit[0] is None and type(unit[1]) is int and unit[1] == 0):
        raise MalformedMessage("a unit is [nil, 0, statements]", what="unit")
    statements = unit[2]
    if not (isinstance(statements, list) and statements):
        raise MalformedMessage("a unit needs statements", what="unit")
    strings = 0
    for row in statements:
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], (list, dict))):
            raise MalformedMessage("a statement is [sql, params]", what="statement")
        if type(row[0]) is str:
            strings += 1
        elif not (type(row[0]) is int and 0 <= row[0] < strings):
            raise MalformedMessage(
                "a statement's sql is a string or refers to an earlier one", what="statement"
            )
        values = row[1].values() if isinstance(row[1], dict) else row[1]
        if isinstance(row[1], dict) and not all(type(k) is str for k in row[1]):
            raise MalformedMessage("parameter names are strings", what="params")
        if len(row[1]) > STATEMENT_PARAMS_MAX:
            raise MalformedMessage("too many parameters", what="params")
        for value in values:
            if not (value is None or type(value) in (int, float, str, bytes)):
                raise MalformedMessage("a parameter has no SQL type", what="params")
            if type(value) is int and not -(2**63) <= value < 2**63:
                raise MalformedMessage("integer outside 64 bits", what="params")
    return data


_packb = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode_units(
    database: str, now_us: int, seed: bytes, state_hash: StateHash | None, units: Sequence[bytes]
) -> bytes:
    """Join already encoded units into one UNITS payload."""
    if not 0 < len(units) <= ENTRY_UNITS_MAX:
        raise InterfaceError(f"an entry holds 1 to {ENTRY_UNITS_MAX} units, not {len(units)}")
    claim = b"\xc0" if state_hash is None else _pack_claim(state_hash)
    if len(units) < 16:
        count = bytes((0x90 | len(units),))
    else:
        count = _ARRAY16.pack(0xDC, len(units))
    head = _unit_head(database)
    if now_us < 2**32 or len(seed) != 16:  # only in tests; msgpack takes the shortest form
        return b"".join((head, _packb(now_us), _packb(seed), claim, count, *units))
    return b"".join((head, _TIME.pack(0xCF, now_us, 0xC4, 16), seed, claim, count, *units))


_TIME = Struct(">BQBB")  # now_us as 64 bits, and the beginning of 16 bytes
_ARRAY16 = Struct(">BH")
_NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # msgpack's unsigned integers: marker to size


@lru_cache(256)
def _unit_head(database: str) -> bytes:
    return b"".join((b"\x97", _packb(COMMAND_VERSION), _packb(int(CommandKind.UNITS)), _packb(database)))


def _pack_claim(claim: StateHash) -> bytes:
    return bytes(_packb((claim.index, claim.value.to_bytes(8, "big"))))


def encode_open(database: str, now_us: int) -> bytes:
    return bytes(_packb([COMMAND_VERSION, int(CommandKind.OPEN), database, now_us]))


def encode_drop(database: str, now_us: int) -> bytes:
    return bytes(_packb([COMMAND_VERSION, int(CommandKind.DROP), database, now_us]))


def _unpack(data: bytes | memoryview, what: str) -> Any:
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True, max_ext_len=0)
    except MalformedMessage:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
        raise MalformedMessage(f"not valid msgpack: {error}", what=what) from None


def decode_header(payload: bytes) -> CommandHeader:
    """Read a payload's leading fields without touching its units; raises MalformedMessage or UnknownFormat."""
    if len(payload) > ENTRY_BYTES_MAX:
        raise MalformedMessage(f"a command of {len(payload)} bytes is over the limit", what="command")
    header = _decode_usual_header(payload)
    if header is not None:
        return header
    unpacker = msgpack.Unpacker(
        raw=False, strict_map_key=True, max_ext_len=0, max_buffer_size=ENTRY_BYTES_MAX + 1
    )
    unpacker.feed(payload[:1024])
    try:
        count = unpacker.read_array_header()
        version = unpacker.unpack()
        if version != COMMAND_VERSION or type(version) is not int:
            raise UnknownFormat(
                f"log command format {version!r} is not known to this release (it knows {COMMAND_VERSION})",
                version=repr(version)[:40],
            )
        kind, database, now_us = unpacker.unpack(), unpacker.unpack(), unpacker.unpack()
        if kind not in (1, 2, 3) or type(kind) is not int or count != (7 if kind == 1 else 4):
            raise MalformedMessage(f"unknown command kind {kind!r} or wrong field count", what="command")
        if type(database) is not str or type(now_us) is not int:
            raise MalformedMessage("malformed command header", what="command")
        check_database_name(database)
        state_hash = None
        if kind == 1:
            seed, pair = unpacker.unpack(), unpacker.unpack()
            if type(seed) is not bytes or len(seed) != 16:
                raise MalformedMessage("the seed is 16 bytes", what="command")
            if pair is not None:
                if not (
                    isinstance(pair, list)
                    and len(pair) == 2
                    and type(pair[0]) is int
                    and type(pair[1]) is bytes
                    and len(pair[1]) == 8
                ):
                    raise MalformedMessage("malformed state hash", what="command")
                state_hash = StateHash(pair[0], int.from_bytes(pair[1], "big"))
    except (MalformedMessage, UnknownFormat):
        raise
    except InterfaceError as error:
        raise MalformedMessage(str(error), what="command") from None
    except (ValueError, msgpack.UnpackException, TypeError, RecursionError) as error:
        raise MalformedMessage(f"not a command: {error or type(error).__name__}", what="command") from None
    return CommandHeader(CommandKind(kind), database, now_us, state_hash)


def _decode_usual_header(payload: bytes) -> CommandHeader | None:
    """The header of UNITS in the form that `encode_units` gives it; None for any other, which is looked at in full."""
    start = payload[3:4]
    if payload[:3] != b"\x97\x01\x01" or not b"\xa1" <= start <= b"\xbf":
        return None
    end = start[0] - 0xA0 + 4
    if len(payload) < end + 48 or payload[end] != 0xCF or payload[end + 9 : end + 11] != b"\xc4\x10":
        return None
    database = _known_name(payload[4:end])
    if database is None:
        return None
    now_us = int.from_bytes(payload[end + 1 : end + 9], "big")
    at = end + 27
    if payload[at] == 0xC0:
        return CommandHeader(CommandKind.UNITS, database, now_us, None)
    size = _NUMBERS.get(payload[at + 1])
    if payload[at] != 0x92 or size is None:
        return None
    at += 2
    if payload[at + size : at + size + 2] != b"\xc4\x08":
        return None
    index = int.from_bytes(payload[at : at + size], "big")
    value = int.from_bytes(payload[at + size + 2 : at + size + 10], "big")
    return CommandHeader(CommandKind.UNITS, database, now_us, StateHash(index, value))


@lru_cache(256)
def _known_name(raw: bytes) -> str | None:
    try:
        return check_database_name(raw.decode())
    except (UnicodeDecodeError, InterfaceError):
        return None
