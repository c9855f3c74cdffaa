"""Log commands to bytes and back: the COMMAND payload of a log entry.

msgpack array, format version first (docs/ARCHITECTURE.md, "What a log entry holds"):
  UNITS  [1, 1, database, now_us, seed(16 bytes), state_hash, [unit, ...]]
  OPEN   [1, 2, database, now_us]      create the database if it does not exist
  DROP   [1, 3, database, now_us]
state_hash is nil or [log index, 8-byte hash]: the leader's state of that database after that entry.
A transaction unit is alone in its entry, whose now_us and seed are those of the live transaction. Units come ready
from units.py, whose names are to be had here as well; `encode_units` only joins them. storage decodes UNITS payloads
in C; this module is the reference.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import NamedTuple

import msgpack

from dqlite_py.errors import InterfaceError, MalformedMessage, UnknownFormat
from dqlite_py.limits import DATABASE_NAME_MAX, ENTRY_BYTES_MAX, ENTRY_UNITS_MAX
from dqlite_py.units import (
    TRANSACTION_HEAD,
    Params,
    SqlValue,
    check_body,
    check_params,
    check_unit,
    check_value,
    encode_repeated,
    encode_repeated_statements,
    encode_statements,
    encode_unit,
    fence_unit,
    is_transaction,
    stamp_unit,
    transaction_unit,
)

__all__ = [
    "COMMAND_VERSION",
    "CommandHeader",
    "CommandKind",
    "Params",
    "SqlValue",
    "StateHash",
    "check_body",
    "check_database_name",
    "check_params",
    "check_unit",
    "check_value",
    "decode_header",
    "encode_drop",
    "encode_open",
    "encode_repeated",
    "encode_repeated_statements",
    "encode_statements",
    "encode_unit",
    "encode_units",
    "fence_unit",
    "is_transaction",
    "stamp_unit",
    "transaction_unit",
]

COMMAND_VERSION = 1


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


_packb = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode_units(
    database: str, now_us: int, seed: bytes, state_hash: StateHash | None, units: Sequence[bytes]
) -> bytes:
    """Join already encoded units into one UNITS payload."""
    if not 0 < len(units) <= ENTRY_UNITS_MAX:
        raise InterfaceError(f"an entry holds 1 to {ENTRY_UNITS_MAX} units, not {len(units)}")
    if len(units) > 1 and TRANSACTION_HEAD in map(_first_byte, units):
        raise InterfaceError("the unit of an interactive transaction is an entry of its own")
    claim = b"\xc0" if state_hash is None else _pack_claim(state_hash)
    if len(units) < 16:
        count = bytes((0x90 | len(units),))
    else:
        count = _ARRAY16.pack(0xDC, len(units))
    head = _unit_head(database)
    if now_us < 2**32 or len(seed) != 16:  # only in tests; msgpack takes the shortest form
        return b"".join((head, _packb(now_us), _packb(seed), claim, count, *units))
    return b"".join((head, _TIME.pack(0xCF, now_us, 0xC4, 16), seed, claim, count, *units))


_first_byte = itemgetter(0)
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
