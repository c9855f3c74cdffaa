"""What goes beyond sqlite3, or is told apart from it: levels, tokens, resolve, streams, values, interrupts, dumps."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import apsw.ext
import pytest

import dqlite_py
from dqlite_py import dbapi, sqlite_codes
from dqlite_py.dbapi.statements import classify
from dqlite_py.errors import (
    InterfaceError,
    NeverApplied,
    NotSupportedError,
    OutcomeUnknown,
    ProgrammingError,
)
from dqlite_py.gateway import Freshness, ReadLevel
from tests.support.fakegateway import FakeGateway, RecordingGateway

MANY = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 450) SELECT x FROM n"


@pytest.fixture
def conn(recorder: RecordingGateway, connect: Callable[..., Any]) -> Iterator[Any]:
    connection = connect(recorder, "main", isolation_level=None, detect_types=dbapi.PARSE_DECLTYPES)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
    yield connection
    connection.close()


def test_levels_of_a_statement(recorder: RecordingGateway, conn: Any) -> None:
    conn.execute("SELECT 1", read_level="stale", max_staleness=1.5, timeout=2)
    assert recorder.levels[-1] == Freshness(ReadLevel.STALE, 0, 1.5)
    assert recorder.timeouts[-1] == 2.0
    conn.execute("SELECT 1", read_level=ReadLevel.LEADER)
    conn.execute("SELECT 1")
    assert [asked.level for asked in recorder.levels[-2:]] == [ReadLevel.LEADER, ReadLevel.LINEARIZABLE]
    with pytest.raises(InterfaceError, match="max_staleness is for reads of level 'stale'"):
        conn.execute("SELECT 1", max_staleness=1)
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_the_session_token_moves_on_and_travels(
    recorder: RecordingGateway, conn: Any, connect: Callable[..., Any]
) -> None:
    before = conn.session_token
    conn.execute("INSERT INTO t(id) VALUES (1)")
    token = conn.session_token
    assert before != token
    other = connect(recorder, "main", read_level="session")
    other.session_token = token
    other.session_token = before  # never back
    other.execute("SELECT 1")
    assert recorder.levels[-1] == Freshness(ReadLevel.SESSION, int(token.removeprefix("index-")))
    for wrong in ("", "index-", "index--1", "index-01", "5", 5, "index-" + "9" * 30):
        with pytest.raises(InterfaceError, match="session token"):
            other.session_token = wrong
    other.close()


def test_resolve(fake: FakeGateway, conn: Any) -> None:
    fake.next_write = "lost"
    with pytest.raises(OutcomeUnknown) as raised:
        conn.execute("INSERT INTO t VALUES (5, 'a') RETURNING name")
    found = conn.resolve(raised.value)
    assert (found.fetchall(), found.rowcount, found.lastrowid) == ([("a",)], 1, 5)
    fake.next_write = "dropped"
    with pytest.raises(OutcomeUnknown) as raised:
        conn.execute("INSERT INTO t VALUES (6, 'b')")
    with pytest.raises(NeverApplied):
        conn.resolve(raised.value)
    with pytest.raises(ProgrammingError, match="names no write"):
        conn.resolve(OutcomeUnknown("of a connection without exactly_once"))


def test_exactly_once_can_be_declined(recorder: RecordingGateway, connect: Callable[..., Any]) -> None:
    for wanted in (True, False):
        connection = connect(recorder, "main", isolation_level=None, exactly_once=wanted)
        connection.execute("CREATE TABLE IF NOT EXISTS u (a)")
        connection.close()
    assert recorder.onces == [True, False]


def test_streams_end_with_what_holds_them(fake: FakeGateway, conn: Any) -> None:
    cursor = conn.execute(MANY)
    assert fake.open_streams == 1
    assert [row[0] for row in cursor] == list(range(1, 451))
    ends: list[Callable[[Any], Any]] = [
        lambda cursor: cursor.close(),
        lambda cursor: cursor.execute("SELECT 1"),
        lambda _cursor: conn.close(),
    ]
    for end in ends:
        cursor = conn.execute(MANY)
        assert (len(cursor.fetchmany(150)), cursor.rownumber, fake.open_streams) == (150, 150, 1)
        end(cursor)
        assert fake.open_streams == 0
    with pytest.raises(ProgrammingError, match="closed database"):
        cursor.fetchone()


def test_a_forgotten_cursor_lets_go(fake: FakeGateway) -> None:
    connection = dbapi.connect(fake, "main")
    connection.execute(MANY)
    assert fake.open_streams == 0


def test_values_of_more_types(conn: Any) -> None:
    conn.execute(
        "CREATE TABLE v (d DECIMAL_TEXT, n DECIMAL, u UUID, b BOOLEAN, t TIME, at DATETIME, day DATE)"
    )
    zone = datetime.timezone(datetime.timedelta(hours=2))
    values = (
        decimal.Decimal("0.1000000000000000000000000001"),
        decimal.Decimal("2.5"),
        uuid.UUID(int=7),
        True,
        datetime.time(1, 2, 3, 4),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, zone),
        datetime.date(2026, 1, 2),
    )
    conn.execute("INSERT INTO v VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    row = conn.execute("SELECT * FROM v").fetchone()
    assert row == values
    assert row[3] is True


def test_unsupported_says_why(conn: Any) -> None:
    with pytest.raises(NotSupportedError, match="same result on every node"):
        conn.create_function("f", 0, lambda: 1)
    with pytest.raises(NotSupportedError, match="iterdump"):
        conn.backup(conn)


def test_uri_is_refused(fake: FakeGateway, connect: Callable[..., Any]) -> None:
    with pytest.raises(NotSupportedError, match="a database has a name"):
        connect(fake, "main", uri=True)


def test_a_dump_makes_the_same_database(conn: Any, connect: Callable[..., Any], fake: FakeGateway) -> None:
    conn.executescript(
        """CREATE TABLE "a ""b" (x TEXT, y BLOB, z REAL);
        INSERT INTO "a ""b" VALUES ('it''s', x'00ff', 1.5), (NULL, NULL, NULL);
        CREATE INDEX i ON "a ""b"(x);
        CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO auto VALUES (41)"""
    )
    script = "\n".join(conn.iterdump())
    copy = connect(fake, "copy", isolation_level=None)
    copy.executescript(script)
    assert "\n".join(copy.iterdump()) == script
    assert copy.execute("INSERT INTO auto DEFAULT VALUES").lastrowid == 42
    copy.close()


def test_a_dump_keeps_texts_that_have_no_literal(
    conn: Any, connect: Callable[..., Any], fake: FakeGateway
) -> None:
    """A zero byte, at which SQLite's quote() ends a text; what is not UTF-8; more columns than may be chained by ||."""
    many = ", ".join(f"c{number}" for number in range(1200))
    conn.executescript(
        f"""CREATE TABLE odd(id INTEGER PRIMARY KEY, a TEXT); CREATE TABLE wide({many});
        INSERT INTO odd VALUES (1, 'a' || char(0) || 'b'), (2, CAST(x'61ff' AS TEXT)), (3, 'r' || char(13));
        INSERT INTO odd VALUES (4, 'é''s');
        INSERT INTO wide(c1199) VALUES (7);"""
    )
    copy = connect(fake, "copy", isolation_level=None)
    copy.executescript("\n".join(conn.iterdump()))
    found = copy.execute("SELECT hex(a), typeof(a) FROM odd ORDER BY id").fetchall()
    assert found == [("610062", "text"), ("61FF", "text"), ("720D", "text"), ("C3A92773", "text")]
    assert copy.execute("SELECT c1199 FROM wide").fetchall() == [(7,)]
    copy.close()


def test_a_dump_of_some_tables(conn: Any) -> None:
    conn.executescript(
        """CREATE TABLE users(id INTEGER PRIMARY KEY AUTOINCREMENT, name); INSERT INTO users(name) VALUES ('Ann');
        CREATE TABLE other(users INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO other DEFAULT VALUES;
        CREATE INDEX i ON users(name); CREATE INDEX users_of ON other(users);"""
    )
    assert list(conn.iterdump(filter="USERS")) == [
        "BEGIN TRANSACTION;",
        "CREATE TABLE users(id INTEGER PRIMARY KEY AUTOINCREMENT, name);",
        """INSERT INTO "users" VALUES(1,'Ann');""",
        "CREATE INDEX i ON users(name);",
        """DELETE FROM "sqlite_sequence" WHERE name LIKE 'USERS';""",
        """INSERT INTO "sqlite_sequence" VALUES('users',1);""",
        "COMMIT;",
    ]


def test_a_dump_without_sequences_does_not_name_them(
    conn: Any, connect: Callable[..., Any], fake: FakeGateway
) -> None:
    """A new database has no table of them before a table needs it."""
    conn.executescript(
        """CREATE TABLE plain(x); INSERT INTO plain VALUES (1);
        CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO counted DEFAULT VALUES;"""
    )
    some = list(conn.iterdump(filter="plain"))
    conn.execute("DROP TABLE counted")
    for name, script in (("some", some), ("all", list(conn.iterdump()))):
        copy = connect(fake, name, isolation_level=None)
        copy.executescript("\n".join(script))
        assert copy.execute("SELECT x FROM plain").fetchall() == [(1,)]
        copy.close()


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT 1", ()),
        ("SELECT ?, ?", (None, None)),
        ("SELECT ?3, ?", (None, None, None, None)),
        ("SELECT :a, @a, $a, :a", ("a", "a", "a")),
        ("SELECT ':a', \"?\", [?], `?`, a$b -- ?\n, /* ? */ :x1", ("x1",)),
        ("SELECT j ->> '$.a', :é", ("é",)),
    ],
)
def test_parameters_are_found_as_sqlite_does(sql: str, parameters: tuple[str | None, ...]) -> None:
    assert classify(sql).parameters == parameters
    connection = apsw.Connection(":memory:")
    connection.execute('CREATE TABLE t (j, a$b, "?")')
    names = apsw.ext.query_info(connection, f"{sql} FROM t" if sql != "SELECT 1" else sql).bindings_names
    assert tuple(None if name is None or name.isdigit() else name for name in names) == parameters
    connection.close()


def test_the_tables_are_those_of_the_sqlite_that_runs() -> None:
    assert dqlite_py.sqlite_version == apsw.sqlite_lib_version()
    assert dqlite_py.sqlite_version_info == tuple(map(int, apsw.sqlite_lib_version().split(".")))
    for table in (apsw.mapping_result_codes, apsw.mapping_extended_result_codes):
        for name, code in table.items():
            if isinstance(name, str):
                assert sqlite_codes.code_name(code) == name
    assert dqlite_py.SQLITE_CONSTRAINT_UNIQUE == 2067
    assert sqlite_codes.code_name(19 | 200 << 8) == "SQLITE_CONSTRAINT"


def test_the_codes_that_our_code_names() -> None:
    named = {name: code for name, code in vars(sqlite_codes).items() if type(code) is int}
    assert named["BUSY_SNAPSHOT"] == 517
    assert {name: sqlite_codes.CODES[f"SQLITE_{name}"] for name in named} == named


@pytest.mark.parametrize(
    ("sql", "complete"),
    [
        ("SELECT 1;", True),
        ("SELECT 1; -- more\n", True),
        ("SELECT 1", False),
        ("", False),
        ("SELECT ';", False),
        ("SELECT 1; /* open", False),
        ("CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1;", False),
        ("CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; END;", True),
    ],
)
def test_complete_statement(sql: str, complete: bool) -> None:
    assert dqlite_py.complete_statement(sql) is complete
    assert apsw.complete(sql) is complete
