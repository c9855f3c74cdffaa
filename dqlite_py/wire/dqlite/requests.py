"""The 20 requests as a table (dqlite's wire protocol, "Client requests"): number, schemas, fields in order.

Field kinds: u32, u64, text, role (a word that may be missing: voter), params (the rest of the body, by schema).
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from dqlite_py.wire.dqlite.frames import Frame
from dqlite_py.wire.dqlite.primitives import BodyReader, encode_text, encode_uint32, encode_uint64
from dqlite_py.wire.dqlite.tuples import decode_params, encode_params
from dqlite_py.wire.dqlite.values import WireValue
from dqlite_py.wire.dqlite.violations import CODE_PARSE, ProtocolViolation

CODE_ERROR: Final = 1  # SQLITE_ERROR, which dqlite says for a bad schema of requests with SQL
FieldValue = int | str | tuple[WireValue, ...]


class RequestType(enum.IntEnum):
    """Type bytes of requests."""

    LEADER = 0
    CLIENT = 1
    HEARTBEAT = 2
    OPEN = 3
    PREPARE = 4
    EXEC = 5
    QUERY = 6
    FINALIZE = 7
    EXEC_SQL = 8
    QUERY_SQL = 9
    INTERRUPT = 10
    CONNECT = 11
    ADD = 12
    ASSIGN = 13
    REMOVE = 14
    DUMP = 15
    CLUSTER = 16
    TRANSFER = 17
    DESCRIBE = 18
    WEIGHT = 19


_FIELDS: Final[dict[RequestType, tuple[str, ...]]] = {
    RequestType.LEADER: ("u64",),
    RequestType.CLIENT: ("u64",),  # client id
    RequestType.HEARTBEAT: ("u64",),  # timestamp
    RequestType.OPEN: ("text", "u64", "text"),  # name, flags, vfs
    RequestType.PREPARE: ("u64", "text"),  # database, SQL
    RequestType.EXEC: ("u32", "u32", "params"),  # database, statement
    RequestType.QUERY: ("u32", "u32", "params"),
    RequestType.FINALIZE: ("u32", "u32"),
    RequestType.EXEC_SQL: ("u64", "text", "params"),
    RequestType.QUERY_SQL: ("u64", "text", "params"),
    RequestType.INTERRUPT: ("u64",),  # database
    RequestType.CONNECT: ("u64", "text"),  # id, address
    RequestType.ADD: ("u64", "text"),
    RequestType.ASSIGN: ("u64", "role"),
    RequestType.REMOVE: ("u64",),
    RequestType.DUMP: ("text",),
    RequestType.CLUSTER: ("u64",),  # format
    RequestType.TRANSFER: ("u64",),  # id, 0: any
    RequestType.DESCRIBE: ("u64",),  # format
    RequestType.WEIGHT: ("u64",),
}
_WITH_SQL: Final = frozenset(
    {RequestType.PREPARE, RequestType.EXEC, RequestType.QUERY, RequestType.EXEC_SQL, RequestType.QUERY_SQL}
)


class Request(NamedTuple):
    """One request, its fields in the table's order."""

    type: RequestType
    fields: tuple[FieldValue, ...]
    schema: int = 0


def encode_request(request: Request) -> Frame:
    """The frame. TypeError or ValueError where the fields are not the table's."""
    parts: list[bytes] = []
    for kind, value in zip(_FIELDS[request.type], request.fields, strict=True):
        match kind, value:
            case "u32", int(number):
                parts.append(encode_uint32(number))
            case (("u64" | "role"), int(number)):
                parts.append(encode_uint64(number))
            case "text", str(text):
                parts.append(encode_text(text))
            case "params", tuple(params):
                parts.append(encode_params(params, request.schema))
            case _:
                raise TypeError(f"{value!r} as {kind} of {request.type.name}")
    return Frame(request.type, request.schema, b"".join(parts))


def decode_request(frame: Frame, params_max: int) -> Request:
    """The request. An unknown type or schema is a violation with a code to answer; a bad body one without."""
    try:
        kind = RequestType(frame.type)
    except ValueError:
        raise ProtocolViolation("unrecognized request type", code=CODE_PARSE) from None
    if frame.schema > (1 if kind in _WITH_SQL else 0):
        code = CODE_ERROR if kind in _WITH_SQL else CODE_PARSE
        raise ProtocolViolation("unrecognized schema version", code=code)
    reader = BodyReader(frame.body)
    fields = tuple(_decode_field(reader, field, frame.schema, params_max) for field in _FIELDS[kind])
    reader.finish()
    return Request(kind, fields, frame.schema)


def _decode_field(reader: BodyReader, kind: str, schema: int, params_max: int) -> FieldValue:
    match kind:
        case "u32":
            return reader.uint32()
        case "u64":
            return reader.uint64()
        case "role":
            return reader.uint64() if reader.remaining else 0
        case "text":
            return reader.text()
        case _:
            return decode_params(reader, schema, params_max)
