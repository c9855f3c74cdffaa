"""The quick way of requests with SQL does what the table does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlite_py.wire.dqlite.frames import Frame
from dqlite_py.wire.dqlite.quick import sql_request
from dqlite_py.wire.dqlite.requests import Request, RequestType, decode_request, encode_request
from dqlite_py.wire.dqlite.values import ValueType, WireValue, typed
from dqlite_py.wire.dqlite.violations import ProtocolViolation

PLAIN = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-2, 2)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from(["2024-01-02", "2024-01-02 03:04:05", "not a time", "\ud800", "a\0b"])
)
PARAMS = (
    st.builds(typed, PLAIN)
    | st.builds(WireValue, st.just(ValueType.BOOLEAN), st.integers(-3, 3))
    | st.builds(WireValue, st.just(ValueType.ISO8601), st.text(max_size=20))
)


def check(frame: Frame) -> bool:
    """Whether the quick way took it; then both say the same."""
    quick = sql_request(frame)
    if quick is None:
        return False
    database, sql, params = decode_request(frame).fields
    assert isinstance(params, tuple)
    assert (quick.database, quick.sql) == (database, sql)
    # NaN is not equal to itself.
    assert repr(quick.values) == repr([param.value for param in params])
    return True


@given(st.integers(0, 2**64 - 1), st.text(max_size=40), st.lists(PARAMS, max_size=20))
def test_requests(database: int, sql: str, params: list[WireValue]) -> None:
    frame = encode_request(Request(RequestType.EXEC_SQL, (database, sql, tuple(params))))
    assert check(frame)
    assert not check(frame._replace(schema=1))


@given(
    st.text(max_size=20),
    st.lists(PARAMS, max_size=6),
    st.integers(0, 2**16),
    st.integers(0, 255),
    st.integers(0, 4),
)
def test_spoilt_requests_are_left_to_the_table(
    sql: str, params: list[WireValue], place: int, byte: int, cut: int
) -> None:
    body = bytearray(encode_request(Request(RequestType.QUERY_SQL, (0, sql, tuple(params)))).body)
    body[place % len(body)] = byte
    del body[max(8, len(body) - 8 * cut) :]
    frame = Frame(RequestType.QUERY_SQL, 0, bytes(body))
    if not check(frame):
        with pytest.raises(ProtocolViolation):
            decode_request(frame)
