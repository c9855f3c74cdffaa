"""What clients ask for, as bytes: statements, and the units that a log entry is made of.

A *body* holds the statements of one request, and is what API layers hand to a node:
  [[sql, params], ...]     sql is str, or an int k naming the k-th *string* sql of the same array (executemany);
                           params is an array, or a map of names without prefix
A *unit* is a body with a header, one client transaction in the log:
  [session, sequence, body]                      session nil and sequence 0: no retries; else a WriteKey
  [session, sequence, []]                        fence: the key's write, if it has not happened, never will
  [session, sequence, [body, ...], digest(8)]    an interactive transaction; alone in its entry
Bodies are encoded once, by the node that received them, and travel as the same bytes to the disk of every member:
headers are put before them. storage decodes units in C; this module is the reference. Any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from struct import Struct
from typing import Any, Final

import msgpack

from dqlite_py.errors import DataError, InterfaceError, MalformedMessage, RequestTooLarge
from dqlite_py.limits import STATEMENT_PARAMS_MAX, UNIT_BYTES_MAX
from dqlite_py.model import WriteKey

SqlValue = None | int | float | str | bytes
Params = Sequence[SqlValue] | Mapping[str, SqlValue]
_PLAIN = frozenset({type(None), int, float, str, bytes})
_SEQUENCES = frozenset({list, tuple})
SESSION_BYTES: Final = 16
DIGEST_BYTES: Final = 8
_ORDINARY: Final = 0x93  # msgpack: arrays of three and of four
TRANSACTION_HEAD: Final = 0x94
_NO_KEY: Final = bytes((_ORDINARY, 0xC0, 0))
_NO_KEY_OF_TRANSACTION: Final = bytes((TRANSACTION_HEAD, 0xC0, 0))
_NO_STATEMENTS: Final = b"\x90"
_HEAD: Final = Struct(f">BBB{SESSION_BYTES}sBQ")  # fields, session, sequence as 64 bits
_HEAD_BYTES_MAX: Final = _HEAD.size


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


def encode_statements(statements: Iterable[tuple[str, Any]]) -> bytes:
    """Encode (sql, params) pairs as a body: executed in order, all or nothing.

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
    return _pack_body(rows)


def encode_repeated_statements(sql: str, parameter_sets: Sequence[Any]) -> bytes:
    """Encode one statement, executed once for each of the parameter sets: as `encode_statements`."""
    if not _are_plain(parameter_sets):
        return encode_statements((sql, params) for params in parameter_sets)
    rows: list[Any] = [(0, params) for params in parameter_sets]
    rows[0] = (sql, parameter_sets[0])
    return _pack_body(rows)


def stamp_unit(body: bytes, key: WriteKey | None) -> bytes:
    """The unit of a body; without a key it is never tried again. The body was checked by who encoded it."""
    if key is None:
        return _NO_KEY + body
    session, sequence = key
    if len(session) != SESSION_BYTES or not 0 < sequence < 2**63:
        raise _no_key(key)
    return _HEAD.pack(_ORDINARY, 0xC4, SESSION_BYTES, session, 0xCF, sequence) + body


def fence_unit(key: WriteKey) -> bytes:
    """The unit after which the write of `key` has happened or never will."""
    return _pack_key(_ORDINARY, key) + _NO_STATEMENTS


def transaction_unit(groups: Sequence[bytes], digest: bytes, key: WriteKey | None) -> bytes:
    """The unit of an interactive transaction: the bodies that it recorded, and the digest of their results (8 bytes).

    Raises RequestTooLarge.
    """
    if not groups or len(digest) != DIGEST_BYTES:
        raise InterfaceError(f"a transaction unit has groups, and a digest of {DIGEST_BYTES} bytes")
    head = _NO_KEY_OF_TRANSACTION if key is None else _pack_key(TRANSACTION_HEAD, key)
    count = msgpack.Packer(autoreset=False)
    count.pack_array_header(len(groups))
    unit = b"".join((head, count.bytes(), *groups, b"\xc4\x08", digest))
    _check_size(unit)
    return unit


def is_transaction(unit: bytes) -> bool:
    """Whether a well-formed unit is an interactive transaction's: an entry of its own."""
    return unit[0] == TRANSACTION_HEAD


def has_key(unit: bytes) -> bool:
    """Whether a well-formed unit may be tried again."""
    return unit[1:2] == b"\xc4"


def encode_unit(statements: Iterable[tuple[str, Any]]) -> bytes:
    """A unit without a key of `encode_statements`."""
    return stamp_unit(encode_statements(statements), None)


def encode_repeated(sql: str, parameter_sets: Sequence[Any]) -> bytes:
    """A unit without a key of `encode_repeated_statements`."""
    return stamp_unit(encode_repeated_statements(sql, parameter_sets), None)


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


def _pack_body(rows: Sequence[Any]) -> bytes:
    if not rows:
        raise InterfaceError("a unit needs at least one statement")
    try:
        data: bytes = msgpack.packb(rows, use_bin_type=True)
    except UnicodeEncodeError as error:
        raise DataError(f"SQL or a string parameter is not valid UTF-8: {error.reason}") from None
    if len(data) > UNIT_BYTES_MAX - _HEAD_BYTES_MAX:
        _check_size(data, _HEAD_BYTES_MAX)
    return data


def _check_size(data: bytes, more: int = 0) -> None:
    if len(data) + more > UNIT_BYTES_MAX:
        raise RequestTooLarge(
            f"a unit of {len(data) + more} bytes is over the limit of {UNIT_BYTES_MAX}: split it"
        )


def _pack_key(fields: int, key: WriteKey) -> bytes:
    session, sequence = key
    if len(session) != SESSION_BYTES or not 0 < sequence < 2**63:
        raise _no_key(key)
    return _HEAD.pack(fields, 0xC4, SESSION_BYTES, session, 0xCF, sequence)


def _no_key(key: WriteKey) -> InterfaceError:
    return InterfaceError(f"a write's key is {SESSION_BYTES} bytes and a number from 1, not {key!r:.100}")


def check_unit(data: bytes) -> bytes:
    """Validate a unit that arrived from a peer (shape, not SQL).

    Raises MalformedMessage, RequestTooLarge.
    """
    if len(data) > UNIT_BYTES_MAX:
        raise RequestTooLarge(f"a unit of {len(data)} bytes is over the limit of {UNIT_BYTES_MAX}")
    unit = _unpack(data, "unit")
    if not (isinstance(unit, list) and len(unit) in (3, 4)):
        raise MalformedMessage("a unit is [session, sequence, statements] or has a digest, too", what="unit")
    has_session = _check_key(unit[0], unit[1])
    if len(unit) == 3:
        if not (has_session and unit[2] == []):  # a fence
            _check_body(unit[2])
        return data
    groups, digest = unit[2:]
    if not (isinstance(groups, list) and groups and type(digest) is bytes and len(digest) == DIGEST_BYTES):
        raise MalformedMessage("a transaction unit has groups and a digest", what="unit")
    for group in groups:
        _check_body(group)
    return data


def check_body(data: bytes) -> bytes:
    """Validate a body that arrived from a peer (shape, not SQL).

    Raises MalformedMessage, RequestTooLarge.
    """
    if len(data) > UNIT_BYTES_MAX - _HEAD_BYTES_MAX:
        raise RequestTooLarge(f"statements of {len(data)} bytes are over the limit of {UNIT_BYTES_MAX}")
    _check_body(_unpack(data, "statements"))
    return data


def texts_of(body: bytes) -> list[str]:
    """The SQL of a checked body, each text once."""
    return [row[0] for row in _unpack(body, "statements") if type(row[0]) is str]


def _check_key(session: Any, sequence: Any) -> bool:
    """Whether there is one."""
    if type(sequence) is not int:
        raise MalformedMessage("a unit's sequence is a number", what="unit")
    if session is None and sequence == 0:
        return False
    if not (type(session) is bytes and len(session) == SESSION_BYTES and 0 < sequence < 2**63):
        raise MalformedMessage("a unit's session and sequence are no key", what="unit")
    return True


def _check_body(statements: Any) -> None:
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


def _unpack(data: bytes | memoryview, what: str) -> Any:
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True, max_ext_len=0)
    except MalformedMessage:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
        raise MalformedMessage(f"not valid msgpack: {error}", what=what) from None
