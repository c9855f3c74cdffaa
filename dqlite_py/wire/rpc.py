"""Requests between nodes and their answers (bodies of REQUEST and RESPONSE frames). No I/O.

Ids belong to one connection: a late answer can never meet another request. raft/rpc.py keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dqlite_py.errors import Error
from dqlite_py.limits import RPC_VALUES_MAX
from dqlite_py.wire.tables import ANY, BOOL, U64, Body, Row, Table, text

METHOD_LENGTH_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Request:
    id: int
    method: str
    body: Any


@dataclass(frozen=True, slots=True)
class Response:
    """`body` is the result, or when `failed` an error's `to_wire`."""

    id: int
    failed: bool
    body: Any


TABLE: Final = Table(
    "request",
    (
        Row(1, Request, (("id", U64), ("method", text(METHOD_LENGTH_MAX)), ("body", ANY))),
        Row(2, Response, (("id", U64), ("failed", BOOL), ("body", ANY))),
    ),
    values_max=RPC_VALUES_MAX,
)


def encode_rpc(message: Request | Response) -> bytes:
    """Raises InterfaceError when the body is not a msgpack value."""
    return TABLE.encode(message)


def decode_rpc(body: Body) -> Request | Response:
    """Raises MalformedMessage."""
    message: Request | Response = TABLE.decode(body)
    return message


def error_body(error: Error) -> list[Any]:
    """`to_wire`, with details that msgpack cannot hold as text."""
    name, message, code, details = error.to_wire()
    return [name, _printable(message), code, {str(key): _plain(value) for key, value in details.items()}]


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, float, bytes):
        return value
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    return _printable(value if type(value) is str else repr(value)[:500])


def _printable(message: str) -> str:
    """Lone surrogates (from file names) cannot be encoded."""
    return message.encode(errors="replace").decode()
