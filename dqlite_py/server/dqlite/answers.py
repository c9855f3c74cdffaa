"""The server's answers as frames (dqlite's wire protocol, "Server responses")."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from dqlite_py.server.dqlite.failures import Failure
from dqlite_py.wire.dqlite.frames import Frame, encode_frame
from dqlite_py.wire.dqlite.primitives import encode_text, encode_uint64

FAILURE: Final = 0
SERVER: Final = 1
WELCOME: Final = 2
SERVERS: Final = 3
DATABASE: Final = 4
STATEMENT: Final = 5
RESULT: Final = 6
ROWS: Final = 7
EMPTY: Final = 8
FILES: Final = 9
METADATA: Final = 10
_RESULT: Final = struct.Struct("<IBBHQQ")
_U64: Final = 2**64 - 1


def failure(about: Failure) -> bytes:
    return encode_frame(Frame(FAILURE, 0, encode_uint64(about.code) + encode_text(about.text)))


def server(node_id: int, address: str) -> bytes:
    return encode_frame(Frame(SERVER, 0, encode_uint64(node_id) + encode_text(address)))


def server_legacy(address: str) -> bytes:
    return encode_frame(Frame(SERVER, 0, encode_text(address)))


def welcome(heartbeat_ms: int) -> bytes:
    return encode_frame(Frame(WELCOME, 0, encode_uint64(heartbeat_ms)))


def servers(members: Iterable[tuple[int, str, int]], *, with_roles: bool) -> bytes:
    parts = [
        encode_uint64(node_id) + encode_text(address) + (encode_uint64(role) if with_roles else b"")
        for node_id, address, role in members
    ]
    return encode_frame(Frame(SERVERS, 0, encode_uint64(len(parts)) + b"".join(parts)))


def database(database_id: int) -> bytes:
    return encode_frame(Frame(DATABASE, 0, encode_uint64(database_id)))


def statement(statement_id: int, params: int, tail_offset: int | None) -> bytes:
    body = encode_uint64(statement_id << 32) + encode_uint64(params)
    if tail_offset is None:
        return encode_frame(Frame(STATEMENT, 0, body))
    return encode_frame(Frame(STATEMENT, 1, body + encode_uint64(tail_offset)))


def result(rowid: int, changes: int) -> bytes:
    return _RESULT.pack(2, RESULT, 0, 0, rowid & _U64, changes & _U64)


def rows(body: bytes) -> bytes:
    return encode_frame(Frame(ROWS, 0, body))


def empty() -> bytes:
    return encode_frame(Frame(EMPTY, 0, bytes(8)))


def metadata(failure_domain: int, weight: int) -> bytes:
    return encode_frame(Frame(METADATA, 0, encode_uint64(failure_domain) + encode_uint64(weight)))
