"""dqlite_py.dbapi in autocommit: statements to units and reads, results, parameters, closing, threads, forks."""

from __future__ import annotations

import datetime
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from dqlite_py import Node, dbapi
from dqlite_py.dbapi import Connection, connect
from dqlite_py.errors import (
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    RequestTooLarge,
)
from dqlite_py.gateway import ReadLevel
from dqlite_py.limits import STATEMENT_PARAMS_MAX, UNIT_BYTES_MAX
from tests.support.fakegateway import FakeGateway, RecordingGateway


@pytest.fixture(scope="module", autouse=True)
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node") / "data", listen="127.0.0.1:0") as running:
        for database in ("main", "other"):
            running.connect(database).close()
        yield running


@pytest.fixture(params=["fake", "node"])
def gateway(request: pytest.FixtureRequest, node: Node) -> Iterator[RecordingGateway]:
    """Each test runs on SQLite in memory and on a real node."""
    if request.param == "fake":
        with FakeGateway() as fake:
            yield RecordingGateway(fake)
        return
    connection = node.connect("main", isolation_level=None)
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    connection.executescript(
        "".join(f'DROP TABLE "{name}";' for (name,) in tables if not name.startswith("_dqlite"))
    )
    yield RecordingGateway(connection._core.gateway)


@pytest.fixture
def conn(gateway: RecordingGateway) -> Iterator[Connection]:
    with connect(gateway, "main", isolation_level=None) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
        connection.commit()
        gateway.units.clear()
        gateway.calls.clear()
        yield connection


# -- where statements go ---------------------------------------------------------------------------------


def test_connect_opens_the_database(gateway: RecordingGateway) -> None:
    connect(gateway, "other", timeout=3)
    assert gateway.calls == ["open_database"]
    assert gateway.timeouts == [3.0]


def test_write_is_one_unit_and_read_is_none(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("INSERT INTO t VALUES (?, ?)", (1, "a"))
    conn.execute("SELECT * FROM t WHERE id = :id", {"id": 1})
    assert gateway.calls == ["execute_unit", "query"]
    assert gateway.units == [[["INSERT INTO t VALUES (?, ?)", [1, "a"]]]]


def test_pragma_goes_where_the_node_says(gateway: RecordingGateway, conn: Connection) -> None:
    assert [row[1] for row in conn.execute("PRAGMA table_info(t)")] == ["id", "name"]
    assert gateway.calls == ["is_read", "query"]
    with pytest.raises(OperationalError if isinstance(gateway.inner, FakeGateway) else NotSupportedError):
        conn.execute("PRAGMA user_version = 3")
    assert gateway.units == []


def test_misspelt_statement_never_reaches_the_log(gateway: RecordingGateway, conn: Connection) -> None:
    with pytest.raises(OperationalError, match="syntax error"):
        conn.execute("SELEC 1")
    assert gateway.units == []


def test_empty_statement_does_nothing(gateway: RecordingGateway, conn: Connection) -> None:
    cursor = conn.execute(" -- nothing")
    assert (cursor.description, cursor.rowcount, gateway.calls) == (None, -1, [])


def test_more_than_one_statement_is_refused(gateway: RecordingGateway, conn: Connection) -> None:
    with pytest.raises(ProgrammingError, match="You can only execute one statement at a time"):
        conn.execute("DELETE FROM t; DELETE FROM t")
    assert gateway.calls == []


def test_read_level(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("SELECT 1")
    conn.read_level = "stale"
    conn.execute("SELECT 1")
    assert conn.read_level is ReadLevel.STALE
    assert [asked.level for asked in gateway.levels] == [ReadLevel.LINEARIZABLE, ReadLevel.STALE]
    with pytest.raises(InterfaceError, match="linearizable, leader, session, stale"):
        conn.read_level = "weak"


@pytest.mark.parametrize("timeout", [0, -1, "5", None, True, float("inf"), float("nan")])
def test_bad_timeout(gateway: RecordingGateway, timeout: object) -> None:
    with pytest.raises(InterfaceError, match="timeout"):
        connect(gateway, "main", timeout=timeout)  # type: ignore[arg-type]
    assert gateway.calls == []


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "_dqlite_x", "n" * 129, "é", 5])
def test_bad_database_name(gateway: RecordingGateway, name: str) -> None:
    with pytest.raises(InterfaceError, match="database name"):
        connect(gateway, name)
    assert gateway.calls == []


def test_timeout_is_given_to_each_call(gateway: RecordingGateway, conn: Connection) -> None:
    conn.timeout = 1.5
    conn.execute("SELECT 1")
    conn.execute("DELETE FROM t")
    assert gateway.timeouts[-2:] == [1.5, 1.5]


# -- results -------------------------------------------------------------------------------------------


def test_rowcount_and_lastrowid(conn: Connection) -> None:
    cursor = conn.cursor()
    assert (cursor.rowcount, cursor.lastrowid) == (-1, None)
    cursor.execute("INSERT INTO t(name) VALUES ('a'), ('b')")
    assert (cursor.rowcount, cursor.lastrowid) == (2, 2)
    cursor.execute("UPDATE t SET name = name || 'x'")
    assert (cursor.rowcount, cursor.lastrowid) == (2, 2)
    cursor.execute("INSERT OR IGNORE INTO t VALUES (1, 'other')")
    assert (cursor.rowcount, cursor.lastrowid) == (0, 2)
    cursor.execute("SELECT * FROM t")
    assert cursor.rowcount == -1
    cursor.execute("CREATE TABLE u (a)")
    assert cursor.rowcount == -1
    cursor.execute("REPLACE INTO t VALUES (9, 'z')")
    assert (cursor.rowcount, cursor.lastrowid) == (1, 9)
    cursor.execute("WITH n AS (SELECT 20) DELETE FROM t WHERE id < (SELECT * FROM n)")
    assert (cursor.rowcount, cursor.lastrowid) == (3, 9)


def test_returning(conn: Connection) -> None:
    cursor = conn.execute("INSERT INTO t(name) VALUES ('a'), ('b') RETURNING id, name AS called")
    assert cursor.fetchall() == [(1, "a"), (2, "b")]
    assert [column[0] for column in cursor.description or ()] == ["id", "called"]
    assert (cursor.rowcount, cursor.lastrowid) == (2, 2)
    cursor.execute("UPDATE t SET name = 'c' WHERE id = 7 RETURNING id")
    assert (cursor.fetchall(), cursor.rowcount) == ([], 0)


def test_description_of_an_empty_result(conn: Connection) -> None:
    cursor = conn.execute("SELECT id, name, count(*) FROM t GROUP BY id")
    assert cursor.description == (
        ("id", "INTEGER", None, None, None, None, None),
        ("name", "TEXT", None, None, None, None, None),
        ("count(*)", None, None, None, None, None, None),
    )
    assert cursor.fetchone() is None


def test_failure_leaves_no_old_result(conn: Connection) -> None:
    cursor = conn.execute("SELECT 1")
    with pytest.raises(OperationalError):
        cursor.execute("SELECT * FROM nowhere")
    assert (cursor.description, cursor.rowcount) == (None, -1)


# -- units ----------------------------------------------------------------------------------------------


def test_executemany_is_one_unit(gateway: RecordingGateway, conn: Connection) -> None:
    cursor = conn.executemany("INSERT INTO t VALUES (?, ?)", ((n, str(n)) for n in range(1, 4)))
    assert (cursor.rowcount, cursor.lastrowid, len(gateway.units)) == (3, None, 1)
    with pytest.raises(IntegrityError) as raised:
        conn.executemany("INSERT INTO t VALUES (?, ?)", [(8, "8"), (9, "9"), (1, "again")])
    assert raised.value.details["statement"] == 2
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_executemany_returning_and_empty(gateway: RecordingGateway, conn: Connection) -> None:
    cursor = conn.executemany("INSERT INTO t(name) VALUES (:n) RETURNING id", [{"n": "a"}, {"n": "b"}])
    assert cursor.fetchall() == [(1,), (2,)]
    cursor.executemany("DELETE FROM t WHERE id = ?", [])
    assert (cursor.rowcount, cursor.description, len(gateway.units)) == (0, None, 1)


@pytest.mark.parametrize("sql", ["SELECT ?", "", "PRAGMA user_version", "BEGIN"])
def test_executemany_is_for_changes(conn: Connection, sql: str) -> None:
    with pytest.raises(ProgrammingError, match="executemany\\(\\) can only execute DML"):
        conn.executemany(sql, [(1,)])


def test_executescript_is_one_unit(gateway: RecordingGateway, conn: Connection) -> None:
    conn.executescript(
        """
        CREATE TABLE log (name TEXT);  -- a trigger holds semicolons
        CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.name); SELECT 1; END;
        INSERT INTO t(name) VALUES ('a;b');
        """
    )
    assert len(gateway.units) == 1
    assert conn.execute("SELECT name FROM log").fetchall() == [("a;b",)]
    with pytest.raises(IntegrityError):
        conn.executescript("INSERT INTO t VALUES (5, 'e'); INSERT INTO t VALUES (5, 'f')")
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (1,)
    conn.executescript(" ; ")


def test_executescript_takes_a_dump(gateway: RecordingGateway, conn: Connection) -> None:
    conn.executescript("BEGIN TRANSACTION; CREATE TABLE u (a); INSERT INTO u VALUES (1); COMMIT;")
    assert conn.execute("SELECT a FROM u").fetchone() == (1,)
    assert len(gateway.units) == 1


def test_execute_atomic(gateway: RecordingGateway, conn: Connection) -> None:
    inserted, seen, changed = conn.execute_atomic(
        [
            ("INSERT INTO t(name) VALUES (?) RETURNING id", ("a",)),
            "SELECT name FROM t",
            ("UPDATE t SET name = :n", {"n": "b"}),
        ]
    )
    assert len(gateway.units) == 1
    assert (inserted.fetchone(), inserted.lastrowid) == ((1,), 1)
    assert (seen.fetchall(), seen.rowcount) == ([("a",)], -1)
    assert changed.rowcount == 1
    with pytest.raises(IntegrityError) as raised:
        conn.execute_atomic(["DELETE FROM t", "INSERT INTO t VALUES (1, 'x'), (1, 'y')"])
    assert raised.value.details["statement"] == 1
    assert conn.execute("SELECT name FROM t").fetchone() == ("b",)
    assert conn.execute_atomic([]) == []


@pytest.mark.parametrize("item", [("DELETE FROM t",), 5, ("DELETE FROM t", (), ()), None])
def test_execute_atomic_wants_pairs(conn: Connection, item: object) -> None:
    with pytest.raises(InterfaceError, match="sql, params"):
        conn.execute_atomic([item])  # type: ignore[list-item]


def test_execute_atomic_wants_single_statements(conn: Connection) -> None:
    for sql in ("", "DELETE FROM t; DELETE FROM t"):
        with pytest.raises(ProgrammingError, match="one statement"):
            conn.execute_atomic([sql])


# -- parameters ---------------------------------------------------------------------------------------------


def test_parameter_types(conn: Connection) -> None:
    conn.execute("CREATE TABLE v (a)")
    values = [None, 1, -(2**63), 2.5, "é\0x", b"\0\xff", True]
    conn.executemany("INSERT INTO v VALUES (?)", [(value,) for value in values])
    assert [row[0] for row in conn.execute("SELECT a FROM v")] == values
    assert conn.execute("SELECT ?, typeof(?)", [bytearray(b"a"), memoryview(b"b")]).fetchone() == (
        b"a",
        "blob",
    )


def test_dates_are_stored_as_iso_text(conn: Connection) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5)
    row = conn.execute(
        "SELECT ?, ?, ?, datetime(?, '+1 day')", (moment, moment.date(), moment.time(), moment)
    )
    assert row.fetchone() == ("2026-01-02 03:04:05", "2026-01-02", "03:04:05", "2026-01-03 03:04:05")
    assert conn.execute("SELECT :d", {"d": moment.date()}).fetchone() == ("2026-01-02",)


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ((object(),), ProgrammingError),
        ("ab", ProgrammingError),
        (5, ProgrammingError),
        ({1: 2}, ProgrammingError),
        ((2**63,), DataError),
        ((2**63,), OverflowError),
        (("\ud800",), DataError),
        ((1,) * (STATEMENT_PARAMS_MAX + 1), ProgrammingError),
    ],
)
@pytest.mark.parametrize("sql", ["SELECT ?", "INSERT INTO t(name) VALUES (?)"])
def test_bad_parameters_are_refused_here(
    gateway: RecordingGateway, conn: Connection, sql: str, params: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        conn.execute(sql, params)
    assert gateway.calls == []


def test_more_parameters_than_sqlite_takes(gateway: RecordingGateway, conn: Connection) -> None:
    marks = "?," * STATEMENT_PARAMS_MAX + "?"
    with pytest.raises(OperationalError, match="too many SQL variables"):
        conn.execute(f"SELECT {marks}", (1,) * (STATEMENT_PARAMS_MAX + 1))
    assert gateway.calls == []
    assert len(conn.execute(f"SELECT 1 IN ({marks[:-2]})", (1,) * STATEMENT_PARAMS_MAX).fetchall()) == 1


def test_unit_over_the_limit(gateway: RecordingGateway, conn: Connection) -> None:
    with pytest.raises(RequestTooLarge, match="split"):
        conn.execute("INSERT INTO t(name) VALUES (?)", (bytes(UNIT_BYTES_MAX),))
    assert gateway.calls == []
    conn.rollback()


def test_bad_sql_types(conn: Connection) -> None:
    for sql in (None, b"SELECT 1", 5):
        with pytest.raises(TypeError, match="str"):
            conn.execute(sql)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="executescript"):
        conn.executescript(b"SELECT 1")  # type: ignore[arg-type]


# -- closing and threads ------------------------------------------------------------------------------------


def test_closed_connection(gateway: RecordingGateway) -> None:
    connection = connect(gateway, "main")
    cursor = connection.execute("SELECT 1")
    connection.close()
    connection.close()
    assert "closed" in repr(connection)
    for use in (
        connection.cursor,
        connection.commit,
        connection.rollback,
        connection.__enter__,
        lambda: connection.execute("SELECT 1"),
        lambda: connection.execute_atomic(["DELETE FROM t"]),
        cursor.fetchone,
        cursor.fetchall,
        lambda: next(cursor),
        lambda: cursor.execute("SELECT 1"),
    ):
        with pytest.raises(ProgrammingError, match="Cannot operate on a closed database"):
            use()


def test_closed_cursor(conn: Connection) -> None:
    with conn.execute("SELECT 1") as cursor:
        pass
    cursor.close()
    for use in (cursor.fetchone, cursor.fetchmany, lambda: cursor.execute("SELECT 1"), cursor.__enter__):
        with pytest.raises(ProgrammingError, match="Cannot operate on a closed cursor"):
            use()
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_the_rowcount_of_a_closed_cursor(conn: Connection) -> None:
    cursor = conn.execute("CREATE TABLE closed (a)").executemany(
        "INSERT INTO closed VALUES (?)", [(1,), (2,)]
    )
    cursor.close()
    assert cursor.rowcount == 2


def _in_threads(*targets: Callable[[], None]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_a_connection_belongs_to_its_thread(conn: Connection) -> None:
    cursor = conn.execute("SELECT 1")
    seen: list[str] = []

    def use() -> None:
        for call in (conn.cursor, conn.commit, conn.rollback, conn.close, cursor.fetchone, cursor.close):
            with pytest.raises(ProgrammingError) as raised:
                call()
            seen.append(str(raised.value))

    _in_threads(use)
    assert len(seen) == 6
    assert all(text.startswith("SQLite objects created in a thread can only be used in") for text in seen)
    assert cursor.fetchone() == (1,)


def test_threads_share_a_connection_in_turn(gateway: RecordingGateway, conn: Connection) -> None:
    shared = connect(gateway, "main", isolation_level=None, check_same_thread=False)
    running: list[int] = []

    def before_write() -> None:
        running.append(1)
        assert len(running) == 1
        running.pop()

    gateway.before_write = before_write
    rowids: list[tuple[int | None, int]] = []

    def work(base: int) -> None:
        for n in range(50):
            cursor = shared.execute("INSERT INTO t VALUES (?, ?)", (base + n, str(base + n)))
            rowids.append((cursor.lastrowid, base + n))

    _in_threads(*(partial(work, base) for base in (0, 1000, 2000, 3000)))
    assert len(rowids) == 200
    assert all(got == wanted for got, wanted in rowids)


def test_a_call_inside_a_call_of_the_same_thread_passes(gateway: RecordingGateway, conn: Connection) -> None:
    shared = connect(gateway, "main", isolation_level=None, check_same_thread=False)

    def sets() -> Iterator[tuple[int]]:
        yield shared.execute("SELECT 5").fetchone()

    shared.executemany("INSERT INTO t(id) VALUES (?)", sets())
    assert shared.execute("SELECT id FROM t").fetchall() == [(5,)]


def test_a_cursor_inside_its_own_call(conn: Connection) -> None:
    cursor = conn.cursor()

    def sets() -> Iterator[tuple[int]]:
        cursor.execute("SELECT 1")
        yield (1,)

    with pytest.raises(ProgrammingError, match="Recursive use of cursors not allowed"):
        cursor.executemany("INSERT INTO t(id) VALUES (?)", sets())
    assert cursor.execute("SELECT 1").fetchone() == (1,)


def test_a_forked_child_is_refused(conn: Connection) -> None:
    cursor = conn.cursor()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads, since 3.12
        child = os.fork()
    if child == 0:
        text = ""
        for call in (lambda: cursor.execute("SELECT 1"), conn.commit, conn.close):
            try:
                call()
            except ProgrammingError as error:
                text += f"{error}\n"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        lines = told.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0
    assert len(lines) == 3
    assert all("made before a fork" in line for line in lines)
    assert cursor.execute("SELECT 1").fetchone() == (1,)


def test_errors_are_attributes_of_the_connection(conn: Connection) -> None:
    for name in ("Warning", "Error", "InterfaceError", "DatabaseError", "DataError", "OperationalError"):
        assert getattr(conn, name) is getattr(dbapi, name)
    with pytest.raises(conn.IntegrityError):
        conn.execute_atomic(["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (1, 'b')"])
