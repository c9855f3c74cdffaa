"""Parameters of EXEC, QUERY and their SQL forms (dqlite's wire protocol, "Tuples").

schema 0: uint8 count.  schema 1: uint32 count.  Then a uint8 type per value, zeros to the next word, the values.
No parameters are no bytes, or a header with count 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dqlite_py.wire.dqlite.primitives import BodyReader, encode_uint32, padding
from dqlite_py.wire.dqlite.values import ValueType, WireValue, decode_type, decode_value, encode_value
from dqlite_py.wire.dqlite.violations import CODE_PARSE, refused

SMALL_COUNT_MAX: Final = 255  # of schema 0


def params_schema(count: int) -> int:
    """The schema a client uses for `count` parameters."""
    return 0 if count <= SMALL_COUNT_MAX else 1


def encode_params(params: Sequence[WireValue], schema: int) -> bytes:
    """The parameters; ValueError where there are too many for the schema."""
    if not params:
        return b""
    if schema == 0 and len(params) > SMALL_COUNT_MAX:
        raise ValueError(f"{len(params)} parameters in schema 0")
    count = bytes([len(params)]) if schema == 0 else encode_uint32(len(params))
    header = count + bytes(param.type for param in params)
    return header + padding(len(header)) + b"".join(map(encode_value, params))


def decode_params(reader: BodyReader, schema: int, count_max: int) -> tuple[WireValue, ...]:
    """The rest of the body. `reader` stands at a word. A count above `count_max` is refused before it is used.

    A BOOLEAN is 0 or 1, whatever was sent: so it is bound.
    """
    if not reader.remaining:
        return ()
    count = reader.uint8() if schema == 0 else reader.uint32()
    if count > count_max:
        raise refused(f"{count} parameters, at most {count_max}", CODE_PARSE)
    codes = reader.take(count)
    reader.align()
    kinds = [decode_type(code) for code in codes]
    if ValueType.UNIXTIME in kinds:
        raise refused("a parameter of type UNIXTIME", CODE_PARSE)
    params = tuple(_as_bound(decode_value(reader, kind)) for kind in kinds)
    reader.finish()
    return params


def _as_bound(param: WireValue) -> WireValue:
    return param if param.type is not ValueType.BOOLEAN else WireValue(param.type, int(param.value != 0))
