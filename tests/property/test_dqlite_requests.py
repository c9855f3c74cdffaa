"""dqlite's requests: the bytes of the protocol, and any bytes end in a request or a ProtocolViolation."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlite_py.wire.dqlite.frames import Frame, encode_frame
from dqlite_py.wire.dqlite.requests import Request, RequestType, decode_request, encode_request
from dqlite_py.wire.dqlite.values import typed
from dqlite_py.wire.dqlite.violations import ProtocolViolation

SQL = Request(RequestType.EXEC_SQL, (0, "BEGIN", (typed(1), typed("x"))), 1)


def test_bytes_of_open() -> None:
    frame = encode_request(Request(RequestType.OPEN, ("app", 0, "")))
    assert encode_frame(frame).hex() == "0300000003000000" + "6170700000000000" + "00" * 16


@pytest.mark.parametrize("schema", [0, 1])
def test_a_request_with_parameters_comes_back(schema: int) -> None:
    request = SQL._replace(schema=schema)
    assert decode_request(encode_request(request), 10) == request


def test_assign_of_one_word_makes_a_voter() -> None:
    frame = Frame(RequestType.ASSIGN, 0, (7).to_bytes(8, "little"))
    assert decode_request(frame, 0).fields == (7, 0)


@pytest.mark.parametrize(("kind", "schema", "code"), [(20, 0, 1005), (0, 1, 1005), (8, 2, 1), (4, 2, 1)])
def test_unknown_types_and_schemas_have_their_codes(kind: int, schema: int, code: int) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_request(Frame(kind, schema, bytes(8)), 10)
    assert caught.value.code == code


@given(st.integers(0, 20), st.integers(0, 2), st.binary(max_size=80))
def test_any_bytes_are_a_request_or_a_violation(kind: int, schema: int, body: bytes) -> None:
    with contextlib.suppress(ProtocolViolation):
        assert decode_request(Frame(kind, schema, body), 10).type == kind
