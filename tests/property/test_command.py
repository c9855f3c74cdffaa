"""command, errors, model: any bytes give a valid value or the documented error; what is written is read back."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlite_py import errors
from dqlite_py.command import (
    CommandKind,
    StateHash,
    check_unit,
    decode_header,
    encode_drop,
    encode_open,
    encode_unit,
    encode_units,
)
from dqlite_py.errors import (
    DataError,
    Error,
    InterfaceError,
    MalformedMessage,
    RequestTooLarge,
    UnknownFormat,
)
from dqlite_py.model import Configuration

VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
PARAMS = st.lists(VALUES, max_size=5) | st.dictionaries(st.text(max_size=5), VALUES, max_size=5)
STATEMENTS = st.lists(st.tuples(st.text(max_size=20), PARAMS), min_size=1, max_size=5)
JUNK = st.recursive(
    VALUES | st.booleans(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(STATEMENTS)
def test_a_unit_is_read_back_and_accepted(statements: list[tuple[str, Any]]) -> None:
    unit = encode_unit(statements)
    assert check_unit(unit) == unit
    session, sequence, rows = msgpack.unpackb(unit)
    assert (session, sequence) == (None, 0)
    texts: list[str] = []
    for (sql, params), (reference, encoded) in zip(statements, rows, strict=True):
        if isinstance(reference, str):
            texts.append(reference)
        assert (reference if isinstance(reference, str) else texts[reference]) == sql
        assert encoded == (dict(params) if isinstance(params, dict) else list(params))


@given(st.binary() | JUNK.map(msgpack.packb))
def test_any_bytes_as_a_unit(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage, RequestTooLarge):
        assert check_unit(data) == data


@given(st.binary() | JUNK.map(msgpack.packb))
def test_any_bytes_as_a_command(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage, UnknownFormat):
        decode_header(data)


@given(st.integers(2, 2**31))
def test_an_unknown_command_format_is_refused_by_number(version: int) -> None:
    with pytest.raises(UnknownFormat, match=str(version)):
        decode_header(msgpack.packb([version, 1, "app", 0]))


@given(
    st.integers(0, 2**62),
    st.binary(min_size=16, max_size=16),
    st.none() | st.builds(StateHash, st.integers(0, 2**62), st.integers(0, 2**64 - 1)),
)
def test_headers_are_read_back(now_us: int, seed: bytes, claim: StateHash | None) -> None:
    unit = encode_unit([("SELECT 1", [])])
    header = decode_header(encode_units("app", now_us, seed, claim, [unit]))
    assert (header.kind, header.database, header.now_us, header.state_hash) == (
        CommandKind.UNITS,
        "app",
        now_us,
        claim,
    )
    assert decode_header(encode_open("app", now_us)).kind is CommandKind.OPEN
    assert decode_header(encode_drop("app", now_us)).kind is CommandKind.DROP


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ([2**63], DataError),
        ([-(2**63) - 1], DataError),
        (["\ud800"], DataError),
        ([object()], InterfaceError),
        ([1j], InterfaceError),
        ("text", InterfaceError),
        ({1: 2}, InterfaceError),
        ([0] * 40_000, DataError),
    ],
)
def test_values_that_cannot_be_stored(params: Any, error: type[Error]) -> None:
    with pytest.raises(error):
        encode_unit([("SELECT 1", params)])


@given(JUNK)
def test_any_value_as_a_configuration(value: Any) -> None:
    try:
        configuration = Configuration.from_wire(value)
    except MalformedMessage:
        return
    assert Configuration.from_wire(configuration.to_wire()) == configuration


@given(JUNK)
def test_any_value_as_an_error(value: Any) -> None:
    assert isinstance(errors.from_wire(value), Error)


def every_error(cls: type[Error] = Error) -> list[type[Error]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in every_error(sub))]


@pytest.mark.parametrize("cls", every_error())
def test_errors_survive_the_wire_and_pickling(cls: type[Error]) -> None:
    error = cls("what happened", code=2067, file="/x", offset=7)
    for copy in (
        errors.from_wire(msgpack.unpackb(msgpack.packb(error.to_wire()))),
        pickle.loads(pickle.dumps(error)),
    ):
        assert type(copy) is cls
        assert (copy.message, copy.code, copy.details) == ("what happened", 2067, {"file": "/x", "offset": 7})
        assert (copy.outcome, copy.retryable) == (error.outcome, error.retryable)


def test_an_error_of_a_newer_release_promises_nothing() -> None:
    assert errors.from_wire(["FromTheFuture", "text", None, {}]).outcome is errors.Outcome.UNKNOWN
