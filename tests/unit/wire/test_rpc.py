"""Request and answer bodies."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from dqlite_py.errors import Error, InterfaceError, MalformedMessage, NotLeader, OutcomeUnknown, from_wire
from dqlite_py.limits import RPC_VALUES_MAX
from dqlite_py.wire.rpc import (
    Request,
    Response,
    decode_rpc,
    encode_rpc,
    error_body,
    pack_value,
    unpack_value,
)


@pytest.mark.parametrize(
    "message",
    [
        Request(2**64 - 1, "append", pack_value({"a": [1, 2.5, None, b"x", "y"]})),
        Response(0, False, b""),
        Response(1, True, pack_value(["NotLeader", "text", None, {}])),
    ],
)
def test_round_trip(message: Request | Response) -> None:
    assert decode_rpc(encode_rpc(message)) == message


def test_golden_bytes() -> None:
    assert encode_rpc(Request(5, "m", b"b")).hex() == "940105a16dc40162"
    assert encode_rpc(Response(5, False, b"\x07")).hex() == "940205c2c40107"
    assert pack_value([None, b"b"]).hex() == "92c0c40162"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        msgpack.packb([1, -1, "m", 0]),
        msgpack.packb([1, 1, b"m", 0]),
        msgpack.packb([1, 1, "m" * 101, 0]),
        msgpack.packb([2, 1, 0, 0]),
        msgpack.packb([3, 1, 0, 0]),
        b"\xdd\xff\xff\xff\xff" * 300,
        msgpack.packb([1, 1, "m", "text"]),
    ],
)
def test_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_rpc(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xdd\xff\xff\xff\xff" * 300,
        b"\x91" * 5000,
        b"\x81\x01\x01",
        b"\xc7\x01\x01\x01",
        b"\xa1\xff",
        msgpack.packb([None] * (RPC_VALUES_MAX + 1)),
    ],
)
def test_malformed_values(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        unpack_value(body)


@pytest.mark.parametrize("body", [object(), 2**64, "\udc80", {"k": (1, {2})}])
def test_bodies_that_are_no_msgpack_values(body: Any) -> None:
    with pytest.raises(InterfaceError):
        pack_value({"x": body})


@pytest.mark.parametrize(
    "error",
    [
        NotLeader("elsewhere", leader_id=3, leader_address="a:1"),
        OutcomeUnknown("who knows", code=5),
        Error("odd \udc80", huge=2**70, what=object(), path="\udcff", small=-(2**63), flag=True),
    ],
)
def test_errors_travel(error: Error) -> None:
    response = decode_rpc(encode_rpc(Response(1, True, pack_value(error_body(error)))))
    assert isinstance(response, Response)
    rebuilt = from_wire(unpack_value(response.body))
    assert type(rebuilt) is type(error)
    assert rebuilt.outcome is error.outcome
    assert rebuilt.code == error.code
    assert rebuilt.details.keys() == error.details.keys()
