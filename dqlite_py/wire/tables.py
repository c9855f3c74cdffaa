"""Rows of field names and kinds: the table is the protocol. Encoder, decoder and checks derive from the rows.

A message is a msgpack array: the row's number, then its fields in the row's order. Any bytes decode to a
valid record or raise MalformedMessage; nothing larger than the bytes is built from them. No I/O.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgpack

from dqlite_py.errors import InterfaceError, MalformedMessage

Body = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Kind:
    """A field's type.

    `decode` judges and converts an unpacked value (ValueError or MalformedMessage when wrong); `encode` gives
    what msgpack packs, or, when `raw`, pieces of packed bytes (only for a row's last field).
    """

    name: str
    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any] | None = None
    raw: bool = False


UNREADABLE: Final = (ValueError, msgpack.UnpackException, TypeError, RecursionError)
"""What msgpack raises for bytes that it cannot read."""
UNPACKABLE: Final = (ValueError, TypeError, OverflowError, RecursionError)
"""What it raises for values that it cannot write."""
Field = tuple[str, Kind]
Raw = Sequence[bytes]
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Row(Generic[Record]):
    """One message: `check` judges fields that depend on each other (ValueError when wrong)."""

    number: int
    record: type[Record]
    fields: tuple[Field, ...]
    check: Callable[[Record], None] | None = None


def unpack(body: Body, what: str, values_max: int) -> Any:
    """Strict msgpack: str is UTF-8, keys are str, no extensions, arrays and maps of at most `values_max`.

    The bound is not optional: the decoder reserves memory for what an array header of five bytes claims.
    """
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_ext_len=0,
            max_array_len=values_max,
            max_map_len=values_max,
        )
    except UNREADABLE as error:
        raise MalformedMessage(f"not valid msgpack: {error or type(error).__name__}", what=what) from None


def pack(value: Any, what: str) -> bytes:
    """msgpack bytes; raises InterfaceError for what the format cannot hold."""
    try:
        data: bytes = msgpack.packb(value, use_bin_type=True)
    except UNPACKABLE as error:
        raise InterfaceError(f"{what} cannot be encoded: {error}") from None
    return data


class _Plan:
    """What a row's encoder needs, worked out once."""

    def __init__(self, row: Row[Any]) -> None:
        self.row = row
        self.getters = [_getter(name, kind) for name, kind in row.fields if not kind.raw]
        raw = [_getter(name, kind) for name, kind in row.fields if kind.raw]
        self.raw: Callable[[Any], Raw] | None = raw[0] if raw else None


def _getter(name: str, kind: Kind) -> Callable[[Any], Any]:
    get, encode = operator.attrgetter(name), kind.encode
    return get if encode is None else lambda record: encode(get(record))


class Table:
    """Rows with distinct numbers and records."""

    def __init__(self, name: str, rows: Iterable[Row[Any]], *, values_max: int) -> None:
        self.name = name
        self.rows = tuple(rows)
        self._values_max = values_max
        self._by_number = {row.number: _Plan(row) for row in self.rows}
        self._by_record = {plan.row.record: plan for plan in self._by_number.values()}
        if len(self._by_number) != len(self.rows) or len(self._by_record) != len(self.rows):
            raise ValueError(f"table {name}: two rows share a number or a record")
        for row in self.rows:
            if any(kind.raw for _, kind in row.fields[:-1]):
                raise ValueError(f"table {name}, row {row.number}: only the last field may be raw")

    def encode(self, record: Any, raw: Raw | None = None) -> bytes:
        """The record's bytes; `raw`: those of its raw field, if they are known already.

        Raises InterfaceError when a field cannot be encoded.
        """
        plan = self._by_record[type(record)]
        values = [plan.row.number, *[get(record) for get in plan.getters]]
        if plan.raw is None:
            return pack(values, self.name)
        if raw is None:
            raw = plan.raw(record)
        packer = msgpack.Packer(use_bin_type=True, autoreset=False)
        packer.pack_array_header(len(values) + 1)
        for value in values:
            packer.pack(value)
        return b"".join((packer.bytes(), *raw))

    def decode(self, body: Body) -> Any:
        """The record; raises MalformedMessage."""
        values = unpack(body, self.name, self._values_max)
        if not isinstance(values, list) or not values or type(values[0]) is not int:
            raise MalformedMessage(f"{self.name}: not a numbered array", what=self.name)
        plan = self._by_number.get(values[0])
        if plan is None:
            raise MalformedMessage(f"{self.name}: message {values[0]} is not known", what=self.name)
        row = plan.row
        if len(values) != 1 + len(row.fields):
            raise MalformedMessage(
                f"{row.record.__name__} has {len(row.fields)} fields, not {len(values) - 1}", what=self.name
            )
        name = ""
        fields: dict[str, Any] = {}
        try:
            for (name, kind), value in zip(row.fields, values[1:], strict=True):
                fields[name] = kind.decode(value)
            name = ""
            record = row.record(**fields)
            if row.check is not None:
                row.check(record)
        except (ValueError, MalformedMessage) as error:
            where = f"{row.record.__name__}.{name}" if name else row.record.__name__
            raise MalformedMessage(f"{where}: {error}", what=name or self.name) from None
        return record

    def describe(self) -> str:
        """The table as text, for the documentation and the golden test."""
        lines = [self.name]
        for row in self.rows:
            fields = ", ".join(f"{name} {kind.name}" for name, kind in row.fields)
            lines.append(f"  {row.number} {row.record.__name__}: {fields}")
        return "\n".join(lines)


def _u63(value: Any) -> int:
    if type(value) is int and 0 <= value < 2**63:
        return value
    raise ValueError(f"{value!r:.40} is not an integer of 0 to 2**63-1")


def _u64(value: Any) -> int:
    if type(value) is int and 0 <= value < 2**64:
        return value
    raise ValueError(f"{value!r:.40} is not an integer of 0 to 2**64-1")


def _node_id(value: Any) -> int:
    if type(value) is int and 0 < value < 2**63:
        return value
    raise ValueError(f"{value!r:.40} is not a node id")


def _bool(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise ValueError(f"{value!r:.40} is not a boolean")


def _bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    raise ValueError(f"{value!r:.40} is not bytes")


def text(length_max: int) -> Kind:
    """A str of at most `length_max` characters."""

    def decode(value: Any) -> str:
        if type(value) is str and len(value) <= length_max:
            return value
        raise ValueError(f"{value!r:.40} is not a text of at most {length_max} characters")

    return Kind(f"text[..{length_max}]", decode)


def blob(length_bytes: int) -> Kind:
    """bytes of exactly `length_bytes`."""

    def decode(value: Any) -> bytes:
        if type(value) is bytes and len(value) == length_bytes:
            return value
        raise ValueError(f"{value!r:.40} is not {length_bytes} bytes")

    return Kind(f"bytes[{length_bytes}]", decode)


U63 = Kind("u63", _u63)
U64 = Kind("u64", _u64)
NODE_ID = Kind("node id", _node_id)
BOOL = Kind("bool", _bool)
PACKED = Kind("packed value", _bytes)
