"""Requests between nodes and their answers (bodies of REQUEST and RESPONSE frames). No I/O.

Ids belong to one connection: a late answer can never meet another request. raft/rpc.py keeps them.
The value a request or answer carries is packed on its own: one that cannot be read fails its call, not the
connection.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from dqlite_py.errors import Error
from dqlite_py.limits import RPC_VALUES_MAX
from dqlite_py.wire.tables import BOOL, PACKED, U64, UNREADABLE, Body, Row, Table, pack, text, unpack

METHOD_LENGTH_MAX: Final = 100
_VALUES_MAX: Final = 8
_REQUEST: Final = 1
_RESPONSE: Final = 2


class RpcError(Exception):
    """A call that got no answer; internal: node/ maps it to an errors.Error."""


class RpcNotSent(RpcError):
    """The request was certainly not delivered."""


class RpcLost(RpcError):
    """The request was sent and no answer came: it may have been executed."""


class Request(NamedTuple):
    """`body`: a packed value (`pack_value`)."""

    id: int
    method: str
    body: bytes


class Response(NamedTuple):
    """`body`: the packed result, or when `failed` a packed `error_body`."""

    id: int
    failed: bool
    body: bytes


TABLE: Final = Table(
    "request",
    (
        Row(_REQUEST, Request, (("id", U64), ("method", text(METHOD_LENGTH_MAX)), ("body", PACKED))),
        Row(_RESPONSE, Response, (("id", U64), ("failed", BOOL), ("body", PACKED))),
    ),
    values_max=_VALUES_MAX,
)
_REQUEST_TYPES: Final[list[type]] = [int, int, str, bytes]
_RESPONSE_TYPES: Final[list[type]] = [int, int, bool, bytes]
_new_tuple = tuple.__new__  # a NamedTuple's own constructor is a Python call


def pack_value(value: Any) -> bytes:
    """Raises InterfaceError when it is not a msgpack value."""
    return pack(value, "a request's or an answer's value")


def unpack_value(body: bytes) -> Any:
    """Raises MalformedMessage: also for arrays and maps of more than RPC_VALUES_MAX elements."""
    return unpack(body, "value", RPC_VALUES_MAX)


def encode_rpc(message: Request | Response) -> bytes:
    return pack((_REQUEST if type(message) is Request else _RESPONSE, *message), TABLE.name)


def decode_rpc(body: Body) -> Request | Response:
    """Raises MalformedMessage. As in wire/peer.py: what is right is known at once, the rest is left to the table."""
    try:
        values = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_ext_len=0,
            max_array_len=_VALUES_MAX,
            max_map_len=_VALUES_MAX,
        )
        types = [*map(type, values)]
        if types == _REQUEST_TYPES:
            number, rpc_id, method, packed = values
            if number == _REQUEST and rpc_id >= 0 and len(method) <= METHOD_LENGTH_MAX:
                return _new_tuple(Request, (rpc_id, method, packed))
        elif types == _RESPONSE_TYPES:
            number, rpc_id, failed, packed = values
            if number == _RESPONSE and rpc_id >= 0:
                return _new_tuple(Response, (rpc_id, failed, packed))
    except UNREADABLE:
        pass
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
