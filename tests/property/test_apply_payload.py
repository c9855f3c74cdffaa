"""Arbitrary bytes as payloads: C and command.py agree on what a unit is, and nothing else ever happens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dqlite_py.command import (
    check_unit,
    encode_statements,
    encode_units,
    fence_unit,
    stamp_unit,
    transaction_unit,
)
from dqlite_py.errors import DataError, MalformedMessage, UnknownFormat
from dqlite_py.model import WriteKey
from dqlite_py.storage.engine import DatabaseEngine
from tests.support.engines import NOW_US, SEED, Database, entry, one

pytestmark = pytest.mark.usefixtures("implementation")

COMMON = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.binary(max_size=300),
)
texts = st.sampled_from(
    ["SELECT ?", "SELECT :a, @b, $c", "INSERT INTO t VALUES (?, ?)", "UPDATE t SET v = ?1", "x", ""]
)
params = st.one_of(
    st.lists(values, max_size=4), st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), values)
)
keys = st.builds(WriteKey, st.sampled_from([b"s" * 16, b"t" * 16]), st.integers(1, 2**63 - 1))
bodies = st.lists(st.tuples(texts, params), min_size=1, max_size=4).map(encode_statements)
transactions = st.builds(
    transaction_unit,
    st.lists(bodies, min_size=1, max_size=3),
    st.binary(min_size=8, max_size=8),
    st.none() | keys,
)
units = st.builds(stamp_unit, bodies, st.none() | keys) | keys.map(fence_unit) | transactions


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A unit with some bytes changed, taken out or put in."""
    data = bytearray(draw(units))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        if what == "change" and data:
            data[place] = draw(st.integers(0, 255))
        elif what == "remove":
            del data[place : place + draw(st.integers(1, 9))]
        elif what == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=9))
        else:
            del data[place:]
    return bytes(data)


def raw_unit(*fields: object) -> bytes:
    return bytes(msgpack.packb(list(fields)))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def db(folder: Path) -> Iterator[Database]:
    with Database(folder / "a.db") as database:
        if database.engine.applied_index == 0:
            database.run(("CREATE TABLE t (k UNIQUE, v)", []))
        yield database


def accepts(engine: DatabaseEngine, payload: bytes) -> bool:
    before = engine.pin_info()
    try:
        result = engine.apply(engine.applied_index + 1, payload, want_results=True)
    except (MalformedMessage, UnknownFormat):
        assert engine.pin_info() == before
        return False
    for unit in msgpack.unpackb(result.results, raw=False):
        assert unit[0] == 0 or (len(unit) == 3 and isinstance(unit[1], str))
    return True


@COMMON
@given(data=st.one_of(damaged(), units, st.binary(max_size=60)))
@example(data=raw_unit(b"s" * 16, 1, []))
@example(data=raw_unit(b"s" * 16, 0, []))
@example(data=raw_unit(b"s" * 16, 2**63, []))
@example(data=raw_unit(b"s" * 15, 1, [["SELECT 1", []]]))
@example(data=raw_unit("s" * 16, 1, [["SELECT 1", []]]))
@example(data=raw_unit(None, 1, [["SELECT 1", []]]))
@example(data=raw_unit(None, 0, [], b"12345678"))
@example(data=raw_unit(None, 0, [[]], b"12345678"))
@example(data=raw_unit(None, 0, [[["SELECT 1", []]]], b"1234567"))
@example(data=raw_unit(None, 0, [[["SELECT 1", []]]], "12345678"))
@example(data=raw_unit(None, 0, [[["SELECT 1", []]], [[0, []]]], b"12345678"))
@example(data=raw_unit(None, 0, [[["SELECT 1", []], [0, []]]], b"12345678"))
@example(data=raw_unit(None, False, [["SELECT 1", []]]))
@example(data=raw_unit(None, 0.0, [["SELECT 1", []]]))
@example(data=raw_unit(None, 0, [["SELECT 1", []], [0, []], [1, []]]))
@example(data=raw_unit(None, 0, [["SELECT 1", []], [False, []]]))
@example(data=raw_unit(None, 0, [[b"SELECT 1", []]]))
@example(data=raw_unit(None, 0, [["SELECT ?", [2**63]]]))
@example(data=raw_unit(None, 0, [["SELECT ?", [msgpack.ExtType(1, b"")]]]))
@example(data=raw_unit(None, 0, [["SELECT ?", [msgpack.Timestamp(1, 1)]]]))
@example(data=b"\x93\xc0\xcf\0\0\0\0\0\0\0\0\x91\x92\xd9\x08SELECT 1\x90")  # longer forms than needed
@example(data=b"\x93\xc0\x00\x91\x92\xa9SELECT :a\x82\xa1a\x01\xa1a\x02")  # a name twice
@example(data=b"\x93\xc0\x00\xdd\xff\xff\xff\xff")
@example(data=b"\x93\xc0\x00\x91\x92\xdb\xff\xff\xff\xff")
@example(data=b"\x93\xc0\x00\x91\x92\xa1x\xdf\xff\xff\xff\xff")
def test_c_and_the_reference_agree(db: Database, data: bytes) -> None:
    try:
        check_unit(data)
    except DataError:
        valid = False
    else:
        valid = True
    assert accepts(db.engine, encode_units("main", NOW_US, SEED, None, [data])) == valid


@COMMON
@given(data=st.binary(max_size=80))
def test_arbitrary_bytes(db: Database, data: bytes) -> None:
    accepts(db.engine, data)


@COMMON
@given(place=st.integers(0, 40), byte=st.integers(0, 255))
def test_a_damaged_header(db: Database, place: int, byte: int) -> None:
    payload = bytearray(entry(one("SELECT 1"), one("INSERT INTO t VALUES (1, 1)")))
    payload[place] = byte
    accepts(db.engine, bytes(payload))


def test_every_cut(db: Database) -> None:
    payload = entry(
        one("SELECT ?, :a", 1, "x"), [("SELECT :a", {"a": b"\0" * 40})], one("INSERT INTO t VALUES (1, 2)")
    )
    assert not any(accepts(db.engine, payload[:size]) for size in range(len(payload)))
    assert accepts(db.engine, payload)


def test_deep_nesting_is_refused_without_recursion(db: Database) -> None:
    for mark in (b"\x91", b"\x81", b"\xdc\x00\x01"):
        assert not accepts(db.engine, mark * 1_000_000)
        assert not accepts(db.engine, entry(one("SELECT 1"))[:-1] + mark * 1_000_000)


@COMMON
@given(value=values)
def test_values_round_trip(db: Database, value: object) -> None:
    ((found,),) = db.query("SELECT ?", value)
    if isinstance(value, float) and value != value:
        assert found is None  # SQLite has no NaN
    else:
        assert (type(found), found) == (type(value), value)
