"""dqlite_py.dbapi: statements to units and reads, results, transactions that do not exist, threads."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator

import pytest

from dqlite_py import Node, dbapi
from dqlite_py.dbapi import Connection, connect
from dqlite_py.errors import (
    DataError,
    IntegrityError,
    InterfaceError,
    NoLeader,
    NotSupportedError,
    OperationalError,
    OutcomeUnknown,
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
def gateway(request: pytest.FixtureRequest, node: Node) -> RecordingGateway:
    """Each test runs on SQLite in memory and on a real node."""
    if request.param == "fake":
        return RecordingGateway(FakeGateway())
    connection = node.connect("main")
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    connection.executescript(
        "".join(f'DROP TABLE "{name}";' for (name,) in tables if not name.startswith("_dqlite"))
    )
    return RecordingGateway(connection._executor.check_open())


@pytest.fixture
def conn(gateway: RecordingGateway) -> Iterator[Connection]:
    with connect(gateway, "main") as connection:
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
    assert gateway.calls == ["write", "read"]
    assert gateway.units == [[["INSERT INTO t VALUES (?, ?)", [1, "a"]]]]


def test_pragma_goes_where_the_node_says(gateway: RecordingGateway, conn: Connection) -> None:
    assert [row[1] for row in conn.execute("PRAGMA table_info(t)")] == ["id", "name"]
    assert gateway.calls == ["is_read", "read"]
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
    with pytest.raises(ProgrammingError, match="executescript"):
        conn.execute("DELETE FROM t; DELETE FROM t")
    assert gateway.calls == []


def test_read_level(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("SELECT 1")
    conn.read_level = "stale"
    conn.execute("SELECT 1")
    assert conn.read_level is ReadLevel.STALE
    assert gateway.levels == [ReadLevel.LINEARIZABLE, ReadLevel.STALE]
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


@pytest.mark.parametrize("sql", ["SELECT ?", "CREATE TABLE u (a)", "", "PRAGMA user_version"])
def test_executemany_is_for_changes(conn: Connection, sql: str) -> None:
    with pytest.raises(ProgrammingError, match="executemany"):
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


def test_executescript_takes_a_dump(conn: Connection) -> None:
    conn.executescript("BEGIN TRANSACTION; CREATE TABLE u (a); INSERT INTO u VALUES (1); COMMIT;")
    assert conn.execute("SELECT a FROM u").fetchone() == (1,)
    for script in ("BEGIN; DELETE FROM u", "DELETE FROM u; COMMIT", "BEGIN; DELETE FROM u; COMMIT; SELECT 1"):
        with pytest.raises(NotSupportedError):
            conn.executescript(script)
    assert conn.execute("SELECT a FROM u").fetchone() == (1,)


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


# -- transactions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    ["BEGIN", "begin immediate", "COMMIT", "END", "ROLLBACK", "SAVEPOINT a", "RELEASE a", "ROLLBACK TO a"],
)
def test_transaction_control_is_refused_with_the_way_out(
    gateway: RecordingGateway, conn: Connection, sql: str
) -> None:
    for run in (conn.execute, lambda s: conn.executemany(s, [()]), lambda s: conn.execute_atomic([s])):
        with pytest.raises(NotSupportedError, match=r"execute_atomic"):
            run(sql)
    assert gateway.calls == []


def test_rollback_never_pretends(conn: Connection) -> None:
    conn.rollback()
    conn.execute("SELECT 1")
    conn.rollback()
    conn.execute("INSERT INTO t(name) VALUES ('a')")
    conn.execute("INSERT INTO t(name) VALUES ('b')")
    with pytest.raises(NotSupportedError, match=r"2 writes .* connection\.execute_atomic"):
        conn.rollback()
    conn.rollback()  # told once
    conn.execute("DELETE FROM t")
    conn.commit()
    conn.rollback()
    assert not conn.in_transaction
    assert conn.autocommit


def test_rollback_after_a_write_that_may_have_happened(gateway: RecordingGateway, conn: Connection) -> None:
    for failure, is_counted in (
        (NoLeader("nobody leads"), False),
        (OutcomeUnknown("no answer"), True),
        (KeyboardInterrupt(), True),
    ):
        gateway.fail_next = failure
        with pytest.raises(type(failure)):
            conn.execute("DELETE FROM t")
        if is_counted:
            with pytest.raises(NotSupportedError):
                conn.rollback()
        conn.rollback()


def _failing_block(conn: Connection, *statements: str) -> None:
    with conn:
        for sql in statements:
            conn.execute(sql)
        raise ValueError("stop")


def test_failed_block_says_what_stays(conn: Connection) -> None:
    with pytest.raises(ValueError, match="stop") as raised:
        _failing_block(conn, "INSERT INTO t(name) VALUES ('a')")
    assert "1 write of this" in raised.value.__notes__[0]
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (1,)
    with pytest.raises(ValueError, match="stop") as raised:
        _failing_block(conn, "SELECT 1")
    assert not hasattr(raised.value, "__notes__")


def test_with_leaves_the_connection_open(conn: Connection) -> None:
    with conn as same:
        assert same is conn
    assert conn.execute("SELECT 1").fetchone() == (1,)
    conn.rollback()


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
        ((object(),), InterfaceError),
        ("ab", InterfaceError),
        (5, InterfaceError),
        ({1: 2}, InterfaceError),
        ((2**63,), DataError),
        (("\ud800",), DataError),
        ((1,) * (STATEMENT_PARAMS_MAX + 1), DataError),
    ],
)
@pytest.mark.parametrize("sql", ["SELECT ?", "INSERT INTO t(name) VALUES (?)"])
def test_bad_parameters_are_refused_here(
    gateway: RecordingGateway, conn: Connection, sql: str, params: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        conn.execute(sql, params)
    assert gateway.calls == []


def test_unit_over_the_limit(gateway: RecordingGateway, conn: Connection) -> None:
    with pytest.raises(RequestTooLarge, match="split"):
        conn.execute("INSERT INTO t(name) VALUES (?)", (bytes(UNIT_BYTES_MAX),))
    assert gateway.calls == []
    conn.rollback()


def test_bad_sql_types(conn: Connection) -> None:
    for sql in (None, b"SELECT 1", 5):
        with pytest.raises(ProgrammingError, match="str"):
            conn.execute(sql)  # type: ignore[arg-type]
    with pytest.raises(ProgrammingError, match="script"):
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
        with pytest.raises(ProgrammingError, match="connection is closed"):
            use()


def test_closed_cursor(conn: Connection) -> None:
    with conn.execute("SELECT 1") as cursor:
        pass
    cursor.close()
    for use in (cursor.fetchone, cursor.fetchmany, lambda: cursor.execute("SELECT 1"), cursor.__enter__):
        with pytest.raises(ProgrammingError, match="cursor is closed"):
            use()
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_connection_is_shared_by_threads(conn: Connection) -> None:
    def work(base: int) -> None:
        for n in range(50):
            cursor = conn.execute("INSERT INTO t VALUES (?, ?)", (base + n, str(base + n)))
            rowids.append((cursor.lastrowid, base + n))

    rowids: list[tuple[int | None, int]] = []
    threads = [threading.Thread(target=work, args=(base,)) for base in (0, 1000, 2000, 3000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(rowids) == 200
    assert all(got == wanted for got, wanted in rowids)
    with pytest.raises(NotSupportedError, match="200 writes"):
        conn.rollback()


def test_cursor_in_use_by_another_thread(gateway: RecordingGateway, conn: Connection) -> None:
    cursor = conn.cursor()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert leave.wait(30)

    gateway.before_write = hold
    thread = threading.Thread(target=cursor.execute, args=("DELETE FROM t",))
    thread.start()
    assert entered.wait(30)
    with pytest.raises(ProgrammingError, match="each thread its own cursor"):
        cursor.execute("SELECT 1")
    leave.set()
    thread.join(30)
    assert cursor.execute("SELECT 1").fetchone() == (1,)


def test_errors_are_attributes_of_the_connection(conn: Connection) -> None:
    for name in ("Warning", "Error", "InterfaceError", "DatabaseError", "DataError", "OperationalError"):
        assert getattr(conn, name) is getattr(dbapi, name)
    with pytest.raises(conn.IntegrityError):
        conn.execute_atomic(["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (1, 'b')"])
