"""units: every form is read back, nothing else is accepted, and the engine's decoder accepts the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dqlite_py import limits, units
from dqlite_py.command import encode_units
from dqlite_py.errors import DataError, InterfaceError, RequestTooLarge
from dqlite_py.model import WriteKey
from dqlite_py.storage.python_engine.msgpack import Malformed
from dqlite_py.storage.python_engine.payload import open_payload
from dqlite_py.units import (
    check_body,
    check_unit,
    encode_repeated_statements,
    encode_statements,
    fence_unit,
    is_transaction,
    stamp_unit,
    transaction_unit,
)
from tests.support.engines import NOW_US, SEED

KEYS = st.none() | st.builds(WriteKey, st.binary(min_size=16, max_size=16), st.integers(1, 2**63 - 1))
VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
PARAMS = st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=3), VALUES, max_size=3)
BODIES = st.lists(st.tuples(st.text(max_size=9), PARAMS), min_size=1, max_size=3).map(encode_statements)
UNITS = (
    st.builds(stamp_unit, BODIES, KEYS)
    | KEYS.filter(bool).map(fence_unit)  # type: ignore[arg-type]
    | st.builds(
        transaction_unit, st.lists(BODIES, min_size=1, max_size=20), st.binary(min_size=8, max_size=8), KEYS
    )
)
KEY = WriteKey(b"s" * 16, 2**50)
BODY = encode_statements([("SELECT ?", [1])])
DIGEST = bytes(range(8))


def packed(*fields: Any) -> bytes:
    return bytes(msgpack.packb(list(fields)))


@given(BODIES, KEYS)
def test_a_stamped_unit_is_read_back(body: bytes, key: WriteKey | None) -> None:
    unit = stamp_unit(body, key)
    assert msgpack.unpackb(unit) == [*(key or (None, 0)), msgpack.unpackb(body)]
    assert check_unit(unit) == unit
    assert check_body(body) == body
    assert not is_transaction(unit)


@given(st.lists(BODIES, min_size=1, max_size=20), st.binary(min_size=8, max_size=8), KEYS)
def test_a_transaction_unit_is_read_back(groups: list[bytes], digest: bytes, key: WriteKey | None) -> None:
    unit = transaction_unit(groups, digest, key)
    assert msgpack.unpackb(unit) == [
        *(key or (None, 0)),
        [msgpack.unpackb(group) for group in groups],
        digest,
    ]
    assert check_unit(unit) == unit
    assert is_transaction(unit)


def test_a_fence_is_read_back() -> None:
    unit = fence_unit(KEY)
    assert msgpack.unpackb(unit) == [*KEY, []]
    assert check_unit(unit) == unit
    assert not is_transaction(unit)


def test_many_groups() -> None:
    for count in (15, 16, 65_535, 65_536):
        unit = transaction_unit([BODY] * count, DIGEST, KEY)
        assert len(msgpack.unpackb(check_unit(unit))[2]) == count


def accepted(check: Any, data: bytes) -> bool:
    try:
        check(data)
    except (DataError, Malformed):
        return False
    return True


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(UNITS))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        data[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
        if not data:
            break
    return bytes(data)


@given(UNITS | damaged())
@example(packed(None, 0, []))
@example(packed(None, 1, [["SELECT 1", []]]))
@example(packed(b"s" * 16, 0, [["SELECT 1", []]]))
@example(packed(b"s" * 16, 2**63 - 1, [["SELECT 1", []]]))
@example(packed(b"s" * 16, 2**63, [["SELECT 1", []]]))
@example(packed(b"s" * 16, -1, [["SELECT 1", []]]))
@example(packed(b"s" * 16, True, [["SELECT 1", []]]))
@example(packed(b"s" * 16, 1.0, [["SELECT 1", []]]))
@example(packed(b"s" * 15, 1, [["SELECT 1", []]]))
@example(packed(b"s" * 17, 1, [["SELECT 1", []]]))
@example(packed("s" * 16, 1, [["SELECT 1", []]]))
@example(packed(b"s" * 16, 1, None))
@example(packed(b"s" * 16, 1, {}))
@example(packed(b"s" * 16, 1, [], DIGEST))
@example(packed(b"s" * 16, 1, [[]], DIGEST))
@example(packed(b"s" * 16, 1, [[["SELECT 1", []]]], DIGEST[1:]))
@example(packed(b"s" * 16, 1, [[["SELECT 1", []]]], None))
@example(packed(b"s" * 16, 1, [[["SELECT 1", []]], [[0, []]]], DIGEST))
@example(packed(b"s" * 16, 1, [[["SELECT 1", []], [0, []]]], DIGEST))
@example(packed(b"s" * 16, 1, [[["SELECT 1", []]]], DIGEST, DIGEST))
def test_the_decoder_accepts_what_is_accepted_from_peers(data: bytes) -> None:
    entry = encode_units("main", NOW_US, SEED, None, [data])
    assert accepted(open_payload, entry) == accepted(check_unit, data)


def test_a_transaction_is_alone_in_its_entry() -> None:
    transaction, other = transaction_unit([BODY], DIGEST, KEY), stamp_unit(BODY, None)
    for both in ([transaction, other], [other, transaction], [transaction, transaction]):
        with pytest.raises(InterfaceError, match="of its own"):
            encode_units("main", NOW_US, SEED, None, both)
        joined = encode_units("main", NOW_US, SEED, None, [other, other])
        with pytest.raises(Malformed):
            open_payload(joined.replace(other + other, b"".join(both)))


@pytest.mark.parametrize(
    "key", [(b"s" * 15, 1), (b"", 1), (b"s" * 16, 0), (b"s" * 16, -1), (b"s" * 16, 2**63)]
)
def test_no_other_keys(key: tuple[bytes, int]) -> None:
    for make in (
        lambda k: stamp_unit(BODY, k),
        fence_unit,
        lambda k: transaction_unit([BODY], DIGEST, k),
    ):
        with pytest.raises(InterfaceError, match="key"):
            make(WriteKey(*key))


def test_no_other_transactions() -> None:
    for groups, digest in (([], DIGEST), ([BODY], DIGEST[1:]), ([BODY], DIGEST + b"x")):
        with pytest.raises(InterfaceError, match="groups"):
            transaction_unit(groups, digest, KEY)


def test_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES_MAX", 200)
    body = encode_statements([("x" * 160, [])])
    assert len(check_unit(stamp_unit(body, KEY))) == 193
    largest = encode_statements([("x" * 167, [])])
    assert len(check_unit(stamp_unit(check_body(largest), KEY))) == 200
    with pytest.raises(RequestTooLarge, match="201 bytes"):
        encode_statements([("x" * 168, [])])
    with pytest.raises(RequestTooLarge, match="split it"):
        encode_repeated_statements("x" * 150, [[1]] * 10)
    with pytest.raises(RequestTooLarge, match="split it"):
        transaction_unit([body, body], DIGEST, KEY)
    with pytest.raises(RequestTooLarge):
        check_body(packed(["x" * 200, []]))
    with pytest.raises(RequestTooLarge):
        check_unit(packed(None, 0, [["x" * 200, []]]))


@given(st.binary(max_size=40))
def test_any_bytes_as_a_body(data: bytes) -> None:
    assert accepted(check_body, data) == accepted(check_unit, b"\x93\xc0\x00" + data)


def test_the_bounds_in_c_are_those_in_python() -> None:
    header = Path(__file__).parents[2] / "native" / "bounds.h"
    found = re.findall(
        r"#define DQ_\w+ \(?([\d]+)(?:LL)?(?: << (\d+)\))? *\/\* (\w+) \*\/", header.read_text()
    )
    assert len(found) == header.read_text().count("#define") - 1
    assert {name: int(number) << int(shift or 0) for number, shift, name in found} == {
        name: getattr(limits, name) for _, _, name in found
    }
