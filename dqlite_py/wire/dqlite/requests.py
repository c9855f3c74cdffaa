"""The 20 requests as a table (dqlite's wire protocol, "Client requests"): number, schemas, fields in order.

Field kinds: u32, u64, sql, text (a name or an address, of bounded length), role (a word that may be missing: voter),
params (the rest of the body, by schema).
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from dqlite_py.limits import DQLITE_NAME_BYTES_MAX, STATEMENT_PARAMS_MAX
from dqlite_py.wire.dqlite.frames import Frame
from dqlite_py.wire.dqlite.primitives import BodyReader, encode_text, encode_uint32, encode_uint64
from dqlite_py.wire.dqlite.tuples import decode_params, encode_params
from dqlite_py.wire.dqlite.values import WireValue
from dqlite_py.wire.dqlite.violations import CODE_ERROR, CODE_PARSE, refused

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
    RequestType.PREPARE: ("u64", "sql"),  # database, SQL
    RequestType.EXEC: ("u32", "u32", "params"),  # database, statement
    RequestType.QUERY: ("u32", "u32", "params"),
    RequestType.FINALIZE: ("u32", "u32"),
    RequestType.EXEC_SQL: ("u64", "sql", "params"),
    RequestType.QUERY_SQL: ("u64", "sql", "params"),
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
            case (("text" | "sql"), str(text)):
                parts.append(encode_text(text))
            case "params", tuple(params):
                parts.append(encode_params(params, request.schema))
            case _:
                raise TypeError(f"{value!r} as {kind} of {request.type.name}")
    return Frame(request.type, request.schema, b"".join(parts))


def decode_request(frame: Frame, params_max: int = STATEMENT_PARAMS_MAX) -> Request:
    """The request. Raises ProtocolViolation: for an unknown type or schema, a text that is not UTF-8, too many or
    unknown parameters one that refuses this request only; for a body that does not fit its fields a fatal one."""
    try:
        kind = RequestType(frame.type)
    except ValueError:
        raise refused("unrecognized request type", CODE_PARSE) from None
    if frame.schema > (1 if kind in _WITH_SQL else 0):
        # dqlite says so with two codes.
        raise refused("unrecognized schema version", CODE_ERROR if kind in _WITH_SQL else CODE_PARSE)
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
        case "sql":
            return reader.text()
        case "text":
            return reader.text(DQLITE_NAME_BYTES_MAX)
        case _:
            return decode_params(reader, schema, params_max)
