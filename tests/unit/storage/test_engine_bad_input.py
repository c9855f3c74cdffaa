"""What clients may get wrong in values and in SQL: an error of its unit with one code, the neighbours untouched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.command import encode_units
from dqlite_py.errors import MalformedMessage
from dqlite_py.limits import UNIT_BYTES_MAX
from tests.support.engines import NOW_US, SEED, Database, entry, one

pytestmark = pytest.mark.usefixtures("implementation")

ERROR, TOOBIG, CONSTRAINT_DATATYPE = 1, 18, 3091
BEFORE = one("INSERT INTO t VALUES (1, 'before')")
AFTER = one("INSERT INTO t VALUES (2, 'after')")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.run(("CREATE TABLE t(k INTEGER PRIMARY KEY, v)", []))
        yield database


def refused(db: Database, sql: str, *params: Any) -> tuple[int, str]:
    """Code and message of a bad unit between two good ones."""
    before, bad, after = db.apply(BEFORE, one(sql, *params), AFTER)
    assert (before[0], after[0]) == (0, 0)
    assert db.query("SELECT v FROM t ORDER BY k") == [["before"], ["after"]]
    assert len(bad) == 3, bad
    return bad[0], bad[1]


# -- integers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    ["abs(?1)", "sum(v) FROM (SELECT ?1 AS v UNION ALL SELECT ?1)", "'x' -> '$' + abs(?1)"],
)
def test_integer_overflow_is_an_error(db: Database, expression: str) -> None:
    code, message = refused(db, f"INSERT INTO t(v) SELECT {expression}", -(2**63))
    assert code == ERROR
    assert message in ("integer overflow", "malformed JSON")


def test_arithmetic_that_overflows_becomes_real(db: Database) -> None:
    big = 2**63 - 1
    assert db.query("SELECT ?1 + 1, ?1 * 2, -?2 - 2, ?2 / -1, ?2 % -1", big, -(2**63)) == [
        [2.0**63, 2.0**64, 2.0**63, 2.0**63, 0]
    ]
    assert db.query("SELECT CAST(9.3e18 AS INTEGER), CAST('99999999999999999999' AS INTEGER)") == [[big, big]]
    assert db.query("SELECT 1 << 64, 1 << -1, ?1 << 1, -1 >> 64", big) == [[0, 0, -2, -1]]


@pytest.mark.parametrize("value", [2**63, 2**64 - 1])
def test_an_integer_beyond_64_bits_is_malformed(db: Database, value: int) -> None:
    payload = entry(BEFORE, one("SELECT ?", 2**62))
    wide = payload.replace((2**62).to_bytes(8, "big"), value.to_bytes(8, "big"))
    assert wide != payload
    with pytest.raises(MalformedMessage):
        db.apply_bytes(wide)
    assert db.query("SELECT count(*) FROM t") == [[0]]


# -- text -----------------------------------------------------------------------------------------------


def test_a_nul_within_text_is_a_character(db: Database) -> None:
    text = "a\0b\0"
    db.run(("INSERT INTO t VALUES (1, ?)", [text]))
    assert db.query("SELECT v, length(v), octet_length(v), v = ?, hex(v) FROM t", text) == [
        [text, 1, 4, 1, "61006200"]
    ]


@pytest.mark.parametrize("sql", ["SELECT 1\0", "SELECT '\0'", "\0", "INSERT INTO t\0 VALUES (1, 1)"])
def test_a_nul_within_sql_is_an_error(db: Database, sql: str) -> None:
    assert refused(db, sql) == (ERROR, "the SQL text contains a NUL character")


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"a" * 40 + b"\xc3"],
)
def test_text_that_is_not_utf8_is_malformed(db: Database, text: bytes) -> None:
    mark = b"\xd9" + bytes([len(text)]) + text
    for unit in (
        b"\x93\xc0\x00\x91\x92\xa8SELECT ?\x91" + mark,
        b"\x93\xc0\x00\x91\x92\xa9SELECT :a\x81" + mark + b"\x01",
        b"\x93\xc0\x00\x91\x92" + mark + b"\x90",
    ):
        with pytest.raises(MalformedMessage):
            db.apply_bytes(encode_units("main", NOW_US, SEED, None, [unit]))


def test_every_length_and_place_of_what_is_not_utf8(db: Database) -> None:
    """The decoder takes ASCII in words: neither their ends nor a text's last bytes hide anything."""
    for size in range(70):
        for piece in (b"\xff", b"\xc3", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xf0\x9f\x98"):
            for place in {0, size // 2, max(0, size - 1), size}:
                text = b"a" * place + piece + b"a" * (size - place)
                is_text = text.decode(errors="replace").encode() == text
                unit = b"\x93\xc0\x00\x91\x92\xa8SELECT ?\x91\xd9" + bytes([len(text)]) + text
                payload = encode_units("main", NOW_US, SEED, None, [unit])
                if is_text:
                    assert db.apply_bytes(payload)[0][1][0][3] == [[text.decode()]]
                else:
                    with pytest.raises(MalformedMessage):
                        db.apply_bytes(payload)


def test_text_that_is_not_utf8_within_sqlite_comes_back_as_bytes(db: Database) -> None:
    db.run(("INSERT INTO t VALUES (1, CAST(x'61ff00' AS TEXT))", []))
    assert db.query("SELECT typeof(v), v, v || 'z', substr(v, 2, 1) FROM t") == [
        ["text", b"a\xff\0", b"a\xff\0z", b"\xff"]
    ]


# -- sizes ----------------------------------------------------------------------------------------------


def test_the_largest_blob(db: Database) -> None:
    size = UNIT_BYTES_MAX - 100
    db.run(("INSERT INTO t VALUES (1, ?)", [b"\xa5" * size]))
    assert db.query("SELECT length(v), hex(substr(v, -1)) FROM t") == [[size, "A5"]]


@pytest.mark.parametrize(
    "expression",
    [
        "zeroblob(120000000)",
        "hex(zeroblob(60000000))",
        "replace(hex(zeroblob(30000)), '0', hex(zeroblob(3000)))",
    ],
)
def test_a_value_that_grows_beyond_the_limit(db: Database, expression: str) -> None:
    assert refused(db, f"INSERT INTO t SELECT 9, {expression}")[0] == TOOBIG


# -- SQL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, ""),
        ("SELECT " + "NOT " * 2000 + "1", "Expression tree is too large (maximum depth 1000)"),
        ("SELECT 1" + " + 1" * 1000, "Expression tree is too large (maximum depth 1000)"),
        ("SELECT " + "abs(" * 1001 + "1" + ")" * 1001, ""),
        ("SELECT 1" + " UNION ALL SELECT 1" * 500, "too many terms in compound SELECT"),
        ("SELECT " + ", ".join("1" * 2001), "too many columns in result set"),
        ("CREATE TABLE w(" + ", ".join(f"c{i}" for i in range(2001)) + ")", "too many columns on w"),
        ("SELECT 1 FROM " + ", ".join(f"t AS t{i}" for i in range(65)), "at most 64 tables in a join"),
        ("SELECT coalesce(" + ", ".join("1" * 1001) + ")", "too many arguments on function coalesce"),
        ("SELECT 'a' LIKE '" + "%" * 50_001 + "'", "LIKE or GLOB pattern too complex"),
        ("SELECT ?32767", "variable number must be between ?1 and ?32766"),
        ("SELECT json('" + "[" * 2000 + "]" * 2000 + "')", "malformed JSON"),
        ("SELECT (" * 2000, ""),
    ],
    ids=lambda value: value[:24],
)
def test_sql_that_is_too_deep_or_too_wide(db: Database, sql: str, message: str) -> None:
    code, found = refused(db, sql)
    assert code == ERROR
    assert message in found


def test_as_deep_as_allowed(db: Database) -> None:
    assert db.query("SELECT 1" + " + 1" * 998) == [[999]]
    assert db.query("SELECT 1" + " UNION ALL SELECT 1" * 499) == [[1]] * 500


def test_a_trigger_that_calls_itself_without_end(db: Database) -> None:
    """recursive_triggers is off: it runs once, on every node."""
    db.run(
        ("CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO t(v) VALUES (new.k); END", []),
        ("INSERT INTO t VALUES (1, 0)", []),
    )
    assert db.query("SELECT count(*) FROM t") == [[2]]


def test_a_strict_table_says_which_type(db: Database) -> None:
    db.run(("CREATE TABLE s(a INTEGER) STRICT", []))
    assert refused(db, "INSERT INTO s VALUES (?)", "x")[0] == CONSTRAINT_DATATYPE
