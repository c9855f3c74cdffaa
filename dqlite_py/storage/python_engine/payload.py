"""The UNITS payload of dqlite_py/command.py, checked to its last byte before anything of it is executed: payload.c.

What C reads a second time while it executes is kept here as decoded.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dqlite_py.limits import ENTRY_UNITS_MAX, STATEMENT_PARAMS_MAX
from dqlite_py.storage.python_engine.msgpack import Item, ItemReader, Kind, Malformed
from dqlite_py.storage.python_engine.utf8 import utf8_valid

COMMAND_VERSION: Final = 1
KIND_UNITS: Final = 1
SEED_BYTES: Final = 16
SESSION_BYTES: Final = 16
DIGEST_BYTES: Final = 8
_VALUE_KINDS: Final = frozenset({Kind.NIL, Kind.INT, Kind.FLOAT, Kind.BLOB})


class UnknownVersion(Exception):
    """The payload has another version."""


class Statement(NamedTuple):
    """`params` is a list, or a dict by name in which the last of equal names counts."""

    sql: bytes
    params: list[Item] | dict[bytes, Item]


Body = list[Statement]


class Unit(NamedTuple):
    """`session` is None without retries; `sequence` then is 0. `body` is empty in a fence. A transaction unit has
    `digest` and `groups`, every other neither."""

    session: bytes | None
    sequence: int
    body: Body
    groups: list[Body]
    digest: bytes | None


class Payload(NamedTuple):
    now_us: int
    seed: bytes
    units: list[Unit]


def open_payload(data: bytes) -> Payload:
    """Decode all of `data`; raises Malformed or UnknownVersion."""
    reader = ItemReader(data)
    fields = _read_array(reader)
    if _read_int(reader) != COMMAND_VERSION:
        raise UnknownVersion
    _require(fields == 7)
    return _open_units(reader)


def _open_units(reader: ItemReader) -> Payload:
    _require(_read_int(reader) == KIND_UNITS)
    _require(_is_text(reader.read()))
    now_us = _read_int(reader)
    seed = _read_blob(reader, SEED_BYTES)
    _check_state_hash(reader)
    count = _read_array(reader)
    _require(0 < count <= ENTRY_UNITS_MAX)
    units = [_open_unit(reader) for _ in range(count)]
    _require(count == 1 or not any(unit.digest for unit in units))
    _require(reader.is_at_end)
    return Payload(now_us, seed, units)


def _open_unit(reader: ItemReader) -> Unit:
    fields = _read_array(reader)
    _require(fields in (3, 4))
    session, sequence = _read_key(reader)
    if fields == 4:
        count = _read_array(reader)
        _require(count > 0)
        groups = [open_body(reader) for _ in range(count)]
        return Unit(session, sequence, [], groups, _read_blob(reader, DIGEST_BYTES))
    body = _read_statements(reader)
    _require(bool(body) or session is not None)
    return Unit(session, sequence, body, [], None)


def open_body(reader: ItemReader) -> Body:
    """The next array of statements, which is not empty; raises Malformed."""
    body = _read_statements(reader)
    _require(bool(body))
    return body


def _read_key(reader: ItemReader) -> tuple[bytes | None, int]:
    """nil and 0, or 16 bytes and a number from 1."""
    session = reader.read()
    sequence = _read_int(reader)
    if session.kind is Kind.NIL:
        _require(sequence == 0)
        return None, 0
    _require(session.kind is Kind.BLOB)
    assert isinstance(session.value, bytes)
    _require(len(session.value) == SESSION_BYTES and sequence > 0)
    return session.value, sequence


def _read_statements(reader: ItemReader) -> Body:
    count = _read_array(reader)
    texts: list[bytes] = []  # string SQL of the body, for references by position
    return [_read_statement(reader, texts) for _ in range(count)]


def _read_statement(reader: ItemReader, texts: list[bytes]) -> Statement:
    _require(_read_array(reader) == 2)
    sql = reader.read()
    if _is_text(sql):
        assert isinstance(sql.value, bytes)
        texts.append(sql.value)
        text = sql.value
    else:
        _require(sql.kind is Kind.INT)
        assert isinstance(sql.value, int)
        _require(0 <= sql.value < len(texts))
        text = texts[sql.value]
    return Statement(text, _read_params(reader))


def _read_params(reader: ItemReader) -> list[Item] | dict[bytes, Item]:
    params = reader.read()
    _require(params.kind in (Kind.ARRAY, Kind.MAP))
    count = params.value
    assert isinstance(count, int)
    _require(count <= STATEMENT_PARAMS_MAX)
    if params.kind is Kind.ARRAY:
        return [_read_value(reader) for _ in range(count)]
    named: dict[bytes, Item] = {}
    for _ in range(count):
        name = reader.read()
        _require(_is_text(name))
        assert isinstance(name.value, bytes)
        named[name.value] = _read_value(reader)
    return named


def _read_value(reader: ItemReader) -> Item:
    value = reader.read()
    _require(value.kind in _VALUE_KINDS or _is_text(value))
    return value


def _check_state_hash(reader: ItemReader) -> None:
    """nil, or [index, 8 bytes]: the leader's claim, which the node compares."""
    item = reader.read()
    if item.kind is Kind.NIL:
        return
    _require(item == (Kind.ARRAY, 2))
    _require(reader.read().kind in (Kind.INT, Kind.BIG_UINT))
    _read_blob(reader, 8)


def _read_int(reader: ItemReader) -> int:
    item = reader.read()
    _require(item.kind is Kind.INT)
    assert isinstance(item.value, int)
    return item.value


def _read_array(reader: ItemReader) -> int:
    item = reader.read()
    _require(item.kind is Kind.ARRAY)
    assert isinstance(item.value, int)
    return item.value


def _read_blob(reader: ItemReader, size: int) -> bytes:
    item = reader.read()
    _require(item.kind is Kind.BLOB)
    assert isinstance(item.value, bytes)
    _require(len(item.value) == size)
    return item.value


def _is_text(item: Item) -> bool:
    return item.kind is Kind.TEXT and isinstance(item.value, bytes) and utf8_valid(item.value)


def _require(holds: bool) -> None:
    if not holds:
        raise Malformed
