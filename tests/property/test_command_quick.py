"""command: what is encoded and decoded in few steps is what the plain way gives."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlite_py import command, units
from dqlite_py.command import (
    StateHash,
    check_params,
    decode_header,
    encode_repeated,
    encode_unit,
    encode_units,
)
from dqlite_py.errors import DataError, Error, InterfaceError, MalformedMessage, UnknownFormat
from dqlite_py.limits import STATEMENT_PARAMS_MAX

UNIT = encode_unit([("INSERT INTO t VALUES (?)", [1])])
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,60}\Z")
CLAIMS = st.none() | st.builds(StateHash, st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1))
TIMES = st.integers(0, 2**33) | st.integers(0, 2**63 - 1)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None), max_size=4)
    | st.binary(max_size=4)
    | st.just(object())
)
SETS = (
    st.lists(VALUES, max_size=4) | st.lists(VALUES, max_size=4).map(tuple) | st.just({"a": 1}) | st.just("x")
)


def plainly(database: str, now_us: int, seed: bytes, claim: StateHash | None, units: list[bytes]) -> bytes:
    head = [1, 1, database, now_us, seed, claim and [claim.index, claim.value.to_bytes(8, "big")]]
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    packer.pack_array_header(7)
    for field in head:
        packer.pack(field)
    packer.pack_array_header(len(units))
    return bytes(packer.bytes() + b"".join(units))


@given(NAMES, TIMES, st.binary(min_size=16, max_size=16), CLAIMS, st.sampled_from([1, 2, 15, 16, 17, 4096]))
def test_units_are_joined_as_msgpack_would(
    database: str, now_us: int, seed: bytes, claim: StateHash | None, count: int
) -> None:
    joined = [UNIT] * count
    assert encode_units(database, now_us, seed, claim, joined) == plainly(
        database, now_us, seed, claim, joined
    )


def outcome(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except Error as error:
        return type(error), str(error)


@given(NAMES, TIMES, CLAIMS, st.data())
def test_the_usual_header_is_read_as_any_other(
    database: str, now_us: int, claim: StateHash | None, data: st.DataObject
) -> None:
    payload = bytearray(encode_units(database, now_us, b"s" * 16, claim, [UNIT] * 3))
    for _ in range(data.draw(st.integers(0, 2), "damages")):
        payload[data.draw(st.integers(0, min(120, len(payload)) - 1), "place")] = data.draw(
            st.integers(0, 255)
        )
    payload = payload[: data.draw(st.sampled_from([len(payload), 40, 60, 70]), "length")]
    quick = outcome(decode_header, bytes(payload))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_decode_usual_header", lambda _payload: None)
        assert outcome(decode_header, bytes(payload)) == quick


def test_most_headers_are_usual_ones() -> None:
    for claim in (None, StateHash(1000, 5), StateHash(2**40, 2**64 - 1)):
        payload = encode_units("app", 1_700_000_000_000_000, b"s" * 16, claim, [UNIT])
        header = command._decode_usual_header(payload)
        assert header == (command.CommandKind.UNITS, "app", 1_700_000_000_000_000, claim)


@given(st.lists(SETS, min_size=1, max_size=5))
def test_a_repeated_statement_is_a_unit_of_as_many(sets: list[Any]) -> None:
    sql = "INSERT INTO t VALUES (?)"
    repeated = outcome(encode_repeated, sql, sets)
    singly = outcome(encode_unit, [(sql, params) for params in sets])
    assert (
        repeated == singly or repeated[0] is singly[0] is DataError
    )  # of several faults either may be named


@given(SETS)
def test_parameters_that_pass_unchecked_are_those_that_need_no_check(params: Any) -> None:
    if not units._is_plain(params):
        return
    checked = outcome(check_params, params)
    if checked == list(params):
        return
    assert checked[0] is DataError  # text that is not UTF-8: left to the packer, which says the same
    with pytest.raises(DataError, match="UTF-8"):
        encode_unit([("SELECT 1", params)])


def test_no_parameter_sets_and_too_many_parameters() -> None:
    with pytest.raises(InterfaceError, match="at least one"):
        encode_repeated("INSERT INTO t VALUES (?)", [])
    too_many = [[0] * (STATEMENT_PARAMS_MAX + 1)]
    with pytest.raises(DataError, match=str(STATEMENT_PARAMS_MAX)):
        encode_repeated("INSERT INTO t VALUES (?)", too_many)


def test_bytes_that_are_no_command() -> None:
    for payload in (b"", b"\x97", b"\x97\x01\x01\xa3app", b"\x97\x01\x01" + b"\xff" * 80):
        with pytest.raises(MalformedMessage):
            decode_header(payload)
    with pytest.raises(UnknownFormat):
        decode_header(b"\x97\x02\x01\xa3app")
