"""dqlite's requests: the bytes of the protocol, and any bytes end in a request or a ProtocolViolation."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlite_py.wire.dqlite.frames import Frame, encode_frame
from dqlite_py.wire.dqlite.requests import Request, RequestType, decode_request, encode_request
from dqlite_py.wire.dqlite.values import ValueType, WireValue, typed
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
    assert (caught.value.code, caught.value.is_fatal) == (code, False)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (RequestType.EXEC_SQL, bytes(8) + b"\xff\0\0\0\0\0\0\0"),  # not UTF-8
        (RequestType.EXEC_SQL, bytes(16) + b"\x01\x09" + bytes(14)),  # UNIXTIME
        (RequestType.EXEC_SQL, bytes(16) + b"\x01\x07" + bytes(14)),  # no type
        (RequestType.EXEC_SQL, bytes(16) + b"\x0b" + b"\x05" * 11 + bytes(4 + 88)),  # too many
        (RequestType.OPEN, b"x" * 1025 + bytes(7 + 16)),  # a name too long
    ],
)
def test_what_is_whole_but_wrong_is_answered_and_the_connection_goes_on(
    kind: RequestType, body: bytes
) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_request(Frame(kind, 0, body), 10)
    assert caught.value.code is not None
    assert not caught.value.is_fatal


def test_what_does_not_fit_its_fields_closes_without_an_answer() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_request(Frame(RequestType.OPEN, 0, b"without end"), 10)
    assert (caught.value.code, caught.value.is_fatal) == (None, True)


def test_a_boolean_is_bound_as_0_or_1() -> None:
    frame = encode_request(SQL._replace(fields=(0, "", (WireValue(ValueType.BOOLEAN, 7),))))
    assert decode_request(frame).fields[2] == (WireValue(ValueType.BOOLEAN, 1),)


@given(st.integers(0, 20), st.integers(0, 2), st.binary(max_size=80))
def test_any_bytes_are_a_request_or_a_violation(kind: int, schema: int, body: bytes) -> None:
    with contextlib.suppress(ProtocolViolation):
        assert decode_request(Frame(kind, schema, body), 10).type == kind


U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
SOME = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), TEXT, st.binary(max_size=20)
)
PARAMS = st.lists(SOME.map(typed), max_size=9).map(tuple)
R = RequestType
FIELDS: dict[RequestType, tuple[st.SearchStrategy[Any], ...]] = {
    **dict.fromkeys((R.LEADER, R.CLIENT, R.HEARTBEAT, R.INTERRUPT, R.REMOVE, R.CLUSTER), (U64,)),
    **dict.fromkeys((R.TRANSFER, R.DESCRIBE, R.WEIGHT), (U64,)),
    R.OPEN: (TEXT, U64, TEXT),
    R.PREPARE: (U64, TEXT),
    **dict.fromkeys((R.EXEC, R.QUERY), (U32, U32, PARAMS)),
    R.FINALIZE: (U32, U32),
    **dict.fromkeys((R.EXEC_SQL, R.QUERY_SQL), (U64, TEXT, PARAMS)),
    **dict.fromkeys((R.CONNECT, R.ADD), (U64, TEXT)),
    R.ASSIGN: (U64, U64),
    R.DUMP: (TEXT,),
}


@given(st.data(), st.sampled_from(RequestType), st.booleans())
def test_every_request_comes_back_and_none_with_more_behind_it(
    data: st.DataObject, kind: RequestType, wide: bool
) -> None:
    fields = tuple(data.draw(field) for field in FIELDS[kind])
    has_params = FIELDS[kind][-1] is PARAMS
    request = Request(kind, fields, int(wide and has_params))
    frame = encode_request(request)
    assert decode_request(frame, 9) == request
    if not has_params:
        with pytest.raises(ProtocolViolation):
            decode_request(frame._replace(body=frame.body + bytes(8)), 9)
