"""The 11 responses as a table (dqlite's wire protocol, "Server responses"): number, record, fields in order.

Field kinds: u32, u64, i64, message (a text), pad (a uint32 that says nothing). ROWS, SERVERS, FILES and the two shapes
of SERVER and STMT are written out: SERVERS has roles in format 1, SERVER no id for a legacy client, STMT in schema 1
the offset of the rest.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from dqlite_py.limits import DQLITE_FILES_MAX, DQLITE_MESSAGE_BYTES_MAX, DQLITE_NAME_BYTES_MAX, MEMBERS_MAX
from dqlite_py.wire.dqlite.frames import Frame, Version, encode_header
from dqlite_py.wire.dqlite.primitives import (
    WORD_BYTES,
    BodyReader,
    encode_int64,
    encode_text,
    encode_uint32,
    encode_uint64,
)
from dqlite_py.wire.dqlite.rows import RowsBatch, decode_rows, encode_rows
from dqlite_py.wire.dqlite.violations import CODE_PARSE, ProtocolViolation, refused


class ResponseType(enum.IntEnum):
    """Type bytes of responses."""

    FAILURE = 0
    SERVER = 1
    WELCOME = 2
    SERVERS = 3
    DB = 4
    STMT = 5
    RESULT = 6
    ROWS = 7
    EMPTY = 8
    FILES = 9
    METADATA = 10


class Failure(NamedTuple):
    """A request was refused or failed; SQLite's extended code, or one of the protocol's."""

    code: int
    message: str


class Server(NamedTuple):
    """Who leads: (0, "") when that is not known. `id` is None in the legacy form."""

    id: int | None
    address: str


class Welcome(NamedTuple):
    """Answer to CLIENT; nobody sends heartbeats."""

    heartbeat_ms: int


class ServerEntry(NamedTuple):
    """A member; `role` (0 voter, 1 stand-by, 2 spare) is None in format 0."""

    id: int
    address: str
    role: int | None = None


class Servers(NamedTuple):
    """The members, all with a role or all without."""

    entries: tuple[ServerEntry, ...]


class Database(NamedTuple):
    """A database is open, always as number 0."""

    id: int = 0


class Statement(NamedTuple):
    """A prepared statement; `tail_offset`: where in the SQL's bytes the rest begins, of schema 1 only."""

    database: int
    id: int
    params: int
    tail_offset: int | None = None


class Result(NamedTuple):
    """What a statement without rows did."""

    last_insert_rowid: int
    rows_affected: int


class Empty(NamedTuple):
    """Done."""


class Files(NamedTuple):
    """Files of a database, whole; sizes are multiples of 8. For large ones see `stream_files`."""

    files: tuple[tuple[str, bytes], ...]


class Metadata(NamedTuple):
    """Of the node that answers."""

    failure_domain: int
    weight: int


Response = (
    Failure
    | Server
    | Welcome
    | Servers
    | Database
    | Statement
    | Result
    | RowsBatch
    | Empty
    | Files
    | Metadata
)

_PLAIN: Final[dict[ResponseType, tuple[type[Response], tuple[str, ...]]]] = {
    ResponseType.FAILURE: (Failure, ("u64", "message")),
    ResponseType.WELCOME: (Welcome, ("u64",)),
    ResponseType.DB: (Database, ("u32", "pad")),
    ResponseType.RESULT: (Result, ("i64", "u64")),
    ResponseType.EMPTY: (Empty, ("pad", "pad")),
    ResponseType.METADATA: (Metadata, ("u64", "u64")),
}
_PLAIN_TYPES: Final = {record: (kind, fields) for kind, (record, fields) in _PLAIN.items()}


def encode_response(response: Response) -> Frame:
    """The frame. ValueError for SERVERS half with roles and for files that are not whole words."""
    match response:
        case RowsBatch():
            return Frame(ResponseType.ROWS, 0, encode_rows(response))
        case Server(None, address):
            return Frame(ResponseType.SERVER, 0, encode_text(address))
        case Server(int(number), address):
            return Frame(ResponseType.SERVER, 0, encode_uint64(number) + encode_text(address))
        case Servers(entries):
            return Frame(ResponseType.SERVERS, 0, _encode_servers(entries))
        case Statement(database, number, params, tail):
            body = encode_uint32(database) + encode_uint32(number) + encode_uint64(params)
            if tail is None:
                return Frame(ResponseType.STMT, 0, body)
            return Frame(ResponseType.STMT, 1, body + encode_uint64(tail))
        case Files(files):
            body = b"".join(stream_files([(name, len(data), [data]) for name, data in files]))
            return Frame(ResponseType.FILES, 0, body[WORD_BYTES:])
    kind, fields = _PLAIN_TYPES[type(response)]
    values = iter(response)
    return Frame(
        kind, 0, b"".join(b"\0\0\0\0" if field == "pad" else _encode(field, next(values)) for field in fields)
    )


def decode_response(frame: Frame, version: Version = Version.V1, *, has_roles: bool = True) -> Response:
    """The response. `has_roles`: what CLUSTER asked for; `version`: what the connection was opened with."""
    try:
        kind = ResponseType(frame.type)
    except ValueError:
        raise refused(f"unknown response type {frame.type}", CODE_PARSE) from None
    if frame.schema > (kind is ResponseType.STMT):
        raise refused(f"unknown schema {frame.schema} of {kind.name}", CODE_PARSE)
    if kind is ResponseType.ROWS:
        return decode_rows(frame.body)
    if kind is ResponseType.FAILURE:
        return _decode_failure(frame.body)
    reader = BodyReader(frame.body)
    response: Response
    match kind:
        case ResponseType.SERVER:
            number = None if version is Version.LEGACY else reader.uint64()
            response = Server(number, reader.text(DQLITE_NAME_BYTES_MAX))
        case ResponseType.SERVERS:
            response = _decode_servers(reader, has_roles)
        case ResponseType.STMT:
            response = Statement(reader.uint32(), reader.uint32(), reader.uint64())
            if frame.schema:
                response = response._replace(tail_offset=reader.uint64())
        case ResponseType.FILES:
            response = _decode_files(reader)
        case _:
            response = _decode_plain(reader, kind)
    reader.finish()
    return response


def stream_files(files: Sequence[tuple[str, int, Iterable[bytes]]]) -> Iterator[bytes]:
    """A FILES frame piece by piece, for files larger than memory: name, size in bytes, the bytes in pieces.

    Raises ValueError for a size that is not whole words, before the first piece; and where the pieces are not of
    that size, when it is too late for an answer: the connection is to be closed.
    """
    heads = [encode_text(name) + encode_uint64(size) for name, size, _ in files]
    sizes = [size for _, size, _ in files]
    if any(size % WORD_BYTES for size in sizes):
        raise ValueError(f"files of {sizes} bytes")
    yield encode_header(WORD_BYTES + sum(map(len, heads)) + sum(sizes), ResponseType.FILES)
    yield encode_uint64(len(files))
    for head, (name, size, pieces) in zip(heads, files, strict=True):
        yield head
        left = size
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            raise ValueError(f"{name} has not {size} bytes")


def _encode(kind: str, value: object) -> bytes:
    match kind, value:
        case "u32", int(number):
            return encode_uint32(number)
        case "u64", int(number):
            return encode_uint64(number)
        case "i64", int(number):
            return encode_int64(number)
        case "message", str(text):
            return encode_text(
                text.encode("utf-8", "replace")[:DQLITE_MESSAGE_BYTES_MAX].decode("utf-8", "ignore")
            )
    raise TypeError(f"{value!r} as {kind}")


def _decode_plain(reader: BodyReader, kind: ResponseType) -> Response:
    record, fields = _PLAIN[kind]
    values: list[int | str] = []
    for field in fields:
        match field:
            case "pad":
                reader.uint32()
            case "u32":
                values.append(reader.uint32())
            case "i64":
                values.append(reader.int64())
            case "message":
                values.append(reader.text(DQLITE_MESSAGE_BYTES_MAX))
            case _:
                values.append(reader.uint64())
    return record(*values)  # type: ignore[arg-type]  # the table's fields are the record's


def _decode_failure(body: bytes) -> Response:
    reader = BodyReader(body)
    failure = _decode_plain(reader, ResponseType.FAILURE)
    if not reader.remaining:
        return failure
    # A query that failed at its first rows: dqlite leaves the column count and the names before the failure.
    reader = BodyReader(body)
    for _ in range(min(reader.uint64(), len(body) // WORD_BYTES)):
        reader.text()
    failure = _decode_plain(reader, ResponseType.FAILURE)
    reader.finish()
    return failure


def _encode_servers(entries: tuple[ServerEntry, ...]) -> bytes:
    if len({entry.role is None for entry in entries}) > 1:
        raise ValueError("some members with a role, some without")
    parts = [encode_uint64(len(entries))]
    for entry in entries:
        parts += [encode_uint64(entry.id), encode_text(entry.address)]
        if entry.role is not None:
            parts.append(encode_uint64(entry.role))
    return b"".join(parts)


def _decode_servers(reader: BodyReader, has_roles: bool) -> Servers:
    count = reader.uint64()
    if count > MEMBERS_MAX:
        raise ProtocolViolation(f"{count} members, at most {MEMBERS_MAX}")
    return Servers(tuple(_decode_entry(reader, has_roles) for _ in range(count)))


def _decode_entry(reader: BodyReader, has_roles: bool) -> ServerEntry:
    number, address = reader.uint64(), reader.text(DQLITE_NAME_BYTES_MAX)
    return ServerEntry(number, address, reader.uint64() if has_roles else None)


def _decode_files(reader: BodyReader) -> Files:
    count = reader.uint64()
    if count > DQLITE_FILES_MAX:
        raise ProtocolViolation(f"{count} files, at most {DQLITE_FILES_MAX}")
    return Files(tuple(_decode_file(reader) for _ in range(count)))


def _decode_file(reader: BodyReader) -> tuple[str, bytes]:
    name, size = reader.text(DQLITE_NAME_BYTES_MAX), reader.uint64()
    if size % WORD_BYTES:
        raise ProtocolViolation(f"a file of {size} bytes")
    return name, reader.take(size)
