"""Transaction control as sqlite3's, and what is asked of the node for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dqlite_py import dbapi
from dqlite_py.dbapi import LEGACY_TRANSACTION_CONTROL, Connection
from dqlite_py.errors import (
    DatabaseLocked,
    IntegrityError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    SnapshotConflict,
    TransactionEnded,
)
from dqlite_py.gateway import ReadLevel, TransactionLimits
from tests.support.fakegateway import FakeGateway, RecordingGateway

Connect = Callable[..., Connection]


@pytest.fixture
def gateway(recorder: RecordingGateway) -> RecordingGateway:
    return recorder


@pytest.fixture
def conn(gateway: RecordingGateway, connect: Connect) -> Iterator[Connection]:
    connection = connect(gateway, "main", busy_timeout=0)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
    gateway.calls.clear()
    gateway.units.clear()
    yield connection
    connection.close()


@pytest.fixture
def other(fake: FakeGateway, conn: Connection) -> Iterator[Connection]:
    connection = dbapi.connect(fake, "main", busy_timeout=0)
    yield connection
    connection.close()


def ids(connection: Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT id FROM t ORDER BY id")]


# -- by isolation_level ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["INSERT INTO t VALUES (1, 'a')", "UPDATE t SET id = 2", "DELETE FROM t"])
def test_a_change_begins_a_transaction(
    gateway: RecordingGateway, conn: Connection, other: Connection, sql: str
) -> None:
    assert not conn.in_transaction
    conn.execute(sql)
    assert conn.in_transaction
    assert gateway.calls == ["begin", "run"]
    assert ids(other) == []
    conn.commit()
    assert not conn.in_transaction
    assert gateway.calls == ["begin", "run", "commit"]
    conn.commit()
    conn.rollback()
    assert gateway.calls[3:] == []


def test_rollback_undoes(gateway: RecordingGateway, conn: Connection) -> None:
    conn.executemany("INSERT INTO t(id) VALUES (?)", [(1,), (2,)])
    assert conn.in_transaction
    conn.rollback()
    assert (conn.in_transaction, ids(conn)) == (False, [])
    assert gateway.calls == ["begin", "run", "rollback", "query"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "CREATE TABLE u (a)",
        "PRAGMA table_info(t)",
        "WITH n AS (SELECT 1) INSERT INTO t(id) SELECT 1",
    ],
)
def test_others_do_not(conn: Connection, sql: str) -> None:
    conn.execute(sql)
    assert not conn.in_transaction


def test_ddl_is_part_of_an_open_transaction(conn: Connection) -> None:
    conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.execute("CREATE TABLE u (a)")
    conn.rollback()
    with pytest.raises(OperationalError, match="no such table: u"):
        conn.execute("SELECT * FROM u")


def test_none_is_autocommit(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.isolation_level = None  # commits
    assert not conn.in_transaction
    conn.execute("INSERT INTO t(id) VALUES (2)")
    conn.rollback()
    assert ids(conn) == [1, 2]
    assert gateway.calls == ["begin", "run", "commit", "execute_unit", "query"]


@pytest.mark.parametrize("level", ["immediate", "EXCLUSIVE"])
def test_immediate(gateway: RecordingGateway, conn: Connection, other: Connection, level: str) -> None:
    conn.isolation_level = level
    assert conn.isolation_level == level.upper()
    conn.execute("UPDATE t SET id = 1")
    with pytest.raises(DatabaseLocked):
        other.execute("BEGIN IMMEDIATE")
    assert not other.in_transaction
    with pytest.raises(DatabaseLocked) as raised:
        other.execute("INSERT INTO t(id) VALUES (3)")
    assert raised.value.sqlite_errorname == "SQLITE_BUSY"
    assert other.in_transaction  # as in sqlite3: BEGIN was said, and the INSERT may be tried again
    conn.commit()
    other.execute("INSERT INTO t(id) VALUES (3)")
    other.commit()
    assert ids(conn) == [3]


def test_bad_isolation_levels(conn: Connection) -> None:
    with pytest.raises(ValueError, match="isolation_level string must be"):
        conn.isolation_level = "BOGUS"
    with pytest.raises(TypeError, match="str or None"):
        conn.isolation_level = 5  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        del conn.isolation_level


# -- BEGIN … by hand ------------------------------------------------------------------------------------------


def test_begin_asks_for_nothing(gateway: RecordingGateway, conn: Connection) -> None:
    for end in ("COMMIT", "ROLLBACK", "END TRANSACTION", "commit transaction x"):
        conn.execute("BEGIN")
        assert conn.in_transaction
        conn.execute(end)
        assert not conn.in_transaction
    assert gateway.calls == []


def test_reads_of_a_transaction_are_of_one_state(
    gateway: RecordingGateway, conn: Connection, other: Connection
) -> None:
    conn.execute("BEGIN DEFERRED TRANSACTION")
    assert ids(conn) == []
    other.execute("INSERT INTO t(id) VALUES (1)")
    other.commit()
    assert ids(conn) == []
    conn.commit()
    assert ids(conn) == [1]
    assert gateway.calls == ["begin_read", "read.query", "read.query", "read.close", "query"]


def test_a_write_after_reads(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("BEGIN")
    ids(conn)
    conn.execute("INSERT INTO t(id) VALUES (1)")
    assert ids(conn) == [1]
    conn.commit()
    assert gateway.calls == [
        "begin_read",
        "read.query",
        "begin upgraded",
        "read.close",
        "run",
        "run",
        "commit",
    ]


def test_a_write_after_reads_that_are_history(conn: Connection, other: Connection) -> None:
    conn.execute("BEGIN")
    ids(conn)
    other.execute("INSERT INTO t(id) VALUES (1)")
    other.commit()
    with pytest.raises(SnapshotConflict) as raised:
        conn.execute("INSERT INTO t(id) VALUES (2)")
    assert raised.value.sqlite_errorname == "SQLITE_BUSY_SNAPSHOT"
    assert conn.in_transaction
    assert ids(conn) == []  # still the state it had
    conn.rollback()
    conn.execute("INSERT INTO t(id) VALUES (2)")
    conn.commit()
    assert ids(conn) == [1, 2]


def test_a_result_outlives_its_transaction(gateway: RecordingGateway, conn: Connection) -> None:
    conn.executemany("INSERT INTO t(id) VALUES (?)", [(n,) for n in range(250)])
    conn.commit()
    for end in (conn.commit, conn.rollback, lambda: conn.execute("DELETE FROM t WHERE id = 9")):
        conn.execute("BEGIN")
        rows = conn.execute("SELECT id FROM t")
        assert next(rows) == (0,)
        end()
        assert len(rows.fetchall()) == 249
        conn.rollback()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("BEGIN", "cannot start a transaction within a transaction"),
        ("BEGIN SLOWLY", 'near "SLOWLY": syntax error'),
        ("SAVEPOINT", "incomplete input"),
        ("RELEASE nowhere", "no such savepoint: nowhere"),
        ("ROLLBACK TO nowhere", "no such savepoint: nowhere"),
    ],
)
def test_wrong_control_in_a_transaction(conn: Connection, sql: str, words: str) -> None:
    conn.execute("BEGIN")
    with pytest.raises(OperationalError, match=words) as raised:
        conn.execute(sql)
    assert raised.value.sqlite_errorname == "SQLITE_ERROR"
    assert conn.in_transaction


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("COMMIT", "cannot commit - no transaction is active"),
        ("ROLLBACK", "cannot rollback - no transaction is active"),
        ("RELEASE a", "no such savepoint: a"),
        ("ROLLBACK TO a", "no such savepoint: a"),
    ],
)
def test_wrong_control_outside(conn: Connection, sql: str, words: str) -> None:
    with pytest.raises(OperationalError, match=words):
        conn.execute(sql)
    assert not conn.in_transaction


# -- savepoints -------------------------------------------------------------------------------------------------


def test_savepoints(conn: Connection) -> None:
    conn.execute("BEGIN")
    conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.execute('SAVEPOINT "a b"')
    conn.execute("INSERT INTO t(id) VALUES (2)")
    conn.execute("SAVEPOINT inner")
    conn.execute("INSERT INTO t(id) VALUES (3)")
    conn.execute("ROLLBACK TO INNER")
    assert ids(conn) == [1, 2]
    conn.execute("RELEASE SAVEPOINT inner")
    conn.execute("ROLLBACK TRANSACTION TO SAVEPOINT [a b]")
    assert ids(conn) == [1]
    conn.execute("RELEASE 'a b'")
    assert conn.in_transaction
    conn.commit()
    assert ids(conn) == [1]


def test_savepoints_before_the_first_write(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("SAVEPOINT one")
    conn.execute("SAVEPOINT gone")
    conn.execute("RELEASE gone")
    conn.execute("SAVEPOINT two")
    conn.execute("SAVEPOINT two")
    conn.execute("ROLLBACK TO one")
    conn.execute("SAVEPOINT three")
    assert gateway.calls == []
    conn.execute("INSERT INTO t(id) VALUES (1)")
    assert [sql for sql, _ in gateway.units[0]] == ['SAVEPOINT "one"', 'SAVEPOINT "three"']
    conn.execute("ROLLBACK TO one")
    with pytest.raises(OperationalError, match="no such savepoint: three"):
        conn.execute("RELEASE three")
    assert ids(conn) == []
    conn.rollback()


def test_a_savepoint_outside_a_transaction_is_one(conn: Connection) -> None:
    conn.execute("SAVEPOINT a")
    assert conn.in_transaction
    conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.execute("SAVEPOINT a")  # the same name again
    conn.execute("INSERT INTO t(id) VALUES (2)")
    conn.execute("ROLLBACK TO a")
    conn.execute("RELEASE a")
    assert conn.in_transaction
    conn.execute("RELEASE a")
    assert (conn.in_transaction, ids(conn)) == (False, [1])


def test_reserved_savepoint_names(gateway: RecordingGateway, conn: Connection) -> None:
    with pytest.raises(NotSupportedError, match="_dqlite_"):
        conn.execute("SAVEPOINT _dqlite_x")
    assert gateway.calls == []


# -- the autocommit attribute --------------------------------------------------------------------------------------


def test_autocommit_false_is_always_in_a_transaction(gateway: RecordingGateway, conn: Connection) -> None:
    conn.autocommit = False
    assert conn.in_transaction
    assert gateway.calls == []
    conn.execute("CREATE TABLE u (a)")
    conn.rollback()
    assert conn.in_transaction
    conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.commit()
    assert conn.in_transaction
    conn.execute("COMMIT")
    with pytest.raises(OperationalError, match="cannot commit - no transaction is active"):
        conn.commit()
    conn.autocommit = True
    assert ids(conn) == [1]
    with pytest.raises(OperationalError, match="no such table"):
        conn.execute("SELECT * FROM u")


def test_autocommit_true_has_no_transactions_of_its_own(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.autocommit = True  # commits
    conn.execute("INSERT INTO t(id) VALUES (2)")
    assert not conn.in_transaction
    conn.execute("BEGIN")
    conn.execute("INSERT INTO t(id) VALUES (3)")
    conn.rollback()  # does nothing
    conn.commit()
    assert conn.in_transaction
    conn.execute("ROLLBACK")
    assert ids(conn) == [1, 2]


def test_autocommit_of_connect(fake: FakeGateway, conn: Connection, connect: Connect) -> None:
    with pytest.raises(ValueError, match="autocommit must be True, False, or"):
        connect(fake, "main", autocommit=1)
    connection = connect(fake, "main", autocommit=False)
    assert connection.in_transaction
    connection.execute("INSERT INTO t(id) VALUES (1)")
    connection.close()  # rolls back
    assert ids(conn) == []
    assert conn.autocommit == LEGACY_TRANSACTION_CONTROL


# -- with, scripts, close ----------------------------------------------------------------------------------------


def _failing_block(conn: Connection, sql: str) -> None:
    with conn:
        conn.execute(sql)
        raise ValueError("stop")


def test_with_commits_or_rolls_back(conn: Connection) -> None:
    with conn as same:
        assert same is conn
        conn.execute("INSERT INTO t(id) VALUES (1)")
    assert (conn.in_transaction, ids(conn)) == (False, [1])
    with pytest.raises(ValueError, match="stop"):
        _failing_block(conn, "INSERT INTO t(id) VALUES (2)")
    assert (conn.in_transaction, ids(conn)) == (False, [1])
    with conn:
        pass


def test_with_rolls_back_when_the_commit_fails(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("CREATE TABLE child (parent REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), conn:
        conn.execute("INSERT INTO child VALUES (5)")
    assert not conn.in_transaction
    conn.execute("INSERT INTO child VALUES (5)")
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        conn.commit()
    assert conn.in_transaction  # to be put right
    conn.execute("INSERT INTO t(id) VALUES (5)")
    conn.commit()
    assert ids(conn) == [5]


def test_with_under_autocommit(conn: Connection) -> None:
    conn.autocommit = True
    with pytest.raises(ValueError, match="stop"):
        _failing_block(conn, "INSERT INTO t(id) VALUES (1)")
    conn.autocommit = False
    with pytest.raises(ValueError, match="stop"):
        _failing_block(conn, "INSERT INTO t(id) VALUES (2)")
    with conn:
        conn.execute("INSERT INTO t(id) VALUES (3)")
    assert conn.in_transaction
    conn.rollback()
    assert ids(conn) == [1, 3]


def test_executescript_commits_first(gateway: RecordingGateway, conn: Connection) -> None:
    conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.executescript("INSERT INTO t(id) VALUES (2); INSERT INTO t(id) VALUES (3)")
    assert not conn.in_transaction
    conn.rollback()
    assert ids(conn) == [1, 2, 3]
    assert gateway.calls == ["begin", "run", "commit", "execute_unit", "query"]


def test_executescript_with_control(gateway: RecordingGateway, conn: Connection) -> None:
    conn.executescript(
        "BEGIN; INSERT INTO t(id) VALUES (1); SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; COMMIT"
    )
    assert (conn.in_transaction, ids(conn)) == (False, [1])
    conn.executescript("DELETE FROM t; BEGIN; INSERT INTO t(id) VALUES (2)")
    assert conn.in_transaction
    conn.rollback()
    assert ids(conn) == []


def test_close_rolls_back(conn: Connection, other: Connection) -> None:
    conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.close()
    assert ids(other) == []
    other.execute("INSERT INTO t(id) VALUES (2)")  # nobody holds the writer
    other.close()


def test_a_forgotten_connection_rolls_back(fake: FakeGateway) -> None:
    forgotten = dbapi.connect(fake, "main")
    forgotten.execute("CREATE TABLE t(id)")
    forgotten.execute("INSERT INTO t(id) VALUES (1)")
    assert fake.open_transactions == 1
    del forgotten
    assert fake.open_transactions == 0


def test_execute_atomic_in_a_transaction(conn: Connection) -> None:
    conn.execute("INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(IntegrityError) as raised:
        conn.execute_atomic(["INSERT INTO t VALUES (2, 'b')", "INSERT INTO t VALUES (3, 'a')"])
    assert raised.value.details["statement"] == 1
    assert ids(conn) == [1]
    _, seen = conn.execute_atomic([("INSERT INTO t VALUES (?, ?)", (2, "b")), "SELECT count(*) FROM t"])
    assert seen.fetchall() == [(2,)]
    conn.commit()
    assert ids(conn) == [1, 2]


# -- errors and ends ------------------------------------------------------------------------------------------------


def test_a_failed_statement_leaves_the_transaction(conn: Connection) -> None:
    conn.execute("INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(IntegrityError):
        conn.execute("INSERT INTO t VALUES (2, 'a')")
    with pytest.raises(IntegrityError):
        conn.executemany("INSERT INTO t(id) VALUES (?)", [(3,), (1,), (4,)])
    conn.commit()
    assert ids(conn) == [1, 3]  # as in sqlite3: what went before the failing set stays


def test_or_rollback_ends_it_as_asked(conn: Connection) -> None:
    conn.execute("INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(IntegrityError):
        conn.execute("INSERT OR ROLLBACK INTO t VALUES (2, 'a')")
    assert not conn.in_transaction
    assert ids(conn) == []


@pytest.mark.parametrize("first", ["INSERT INTO t(id) VALUES (1)", "SELECT 1"])
def test_a_transaction_that_the_node_ended(
    fake: FakeGateway, conn: Connection, other: Connection, first: str
) -> None:
    conn.execute("BEGIN")
    conn.execute(first)
    fake.end_transactions("main", "idle for more than 10 s")
    statements: list[Any] = ["SELECT 1", "INSERT INTO t(id) VALUES (2)", "SAVEPOINT a", "SELECT 2", "COMMIT"]
    for sql in statements:
        with pytest.raises(TransactionEnded, match="idle for more than 10 s"):
            conn.execute(sql)
        assert conn.in_transaction
    for call in (conn.commit, lambda: conn.executemany("DELETE FROM t WHERE id = ?", [(1,)])):
        with pytest.raises(TransactionEnded, match=r"call rollback\(\)"):
            call()
    conn.rollback()
    assert not conn.in_transaction
    conn.execute("INSERT INTO t(id) VALUES (3)")
    conn.commit()
    assert ids(other) == [3]


def test_commit_of_a_transaction_that_the_node_ended(fake: FakeGateway, conn: Connection) -> None:
    conn.execute("INSERT INTO t(id) VALUES (1)")
    fake.end_transactions("main", "lost leadership")
    with pytest.raises(TransactionEnded, match="lost leadership"):
        conn.commit()
    assert not conn.in_transaction  # it was told
    assert ids(conn) == []
    conn.autocommit = False
    conn.execute("INSERT INTO t(id) VALUES (1)")
    fake.end_transactions("main", "lost leadership")
    with pytest.raises(TransactionEnded, match="lost leadership"):
        conn.commit()
    assert conn.in_transaction  # the next one
    conn.close()


def test_limits_and_levels_are_handed_on(
    gateway: RecordingGateway, conn: Connection, connect: Connect
) -> None:
    strict = connect(
        gateway, "main", busy_timeout=0.5, idle_limit=1, hold_limit=2, read_level="leader", timeout=3
    )
    strict.execute("BEGIN")
    strict.execute("SELECT 1")
    strict.execute("DELETE FROM t")
    strict.commit()
    assert gateway.limits == [TransactionLimits(1.0, 2.0)] * 2
    assert gateway.levels[-1].level is ReadLevel.LEADER
    assert gateway.timeouts[-5:] == [3.0, 3.0, 0.5, 3.0, 3.0]


def test_the_read_level_of_a_transaction_is_its_first_read_s(
    gateway: RecordingGateway, conn: Connection
) -> None:
    conn.execute("BEGIN")
    conn.execute("SELECT 1", read_level="stale", max_staleness=2)
    assert gateway.levels[-1] == (ReadLevel.STALE, 0, 2.0)
    conn.execute("SELECT 1", read_level="stale")
    with pytest.raises(ProgrammingError, match="read_level is stale for the whole transaction"):
        conn.execute("SELECT 1", read_level="linearizable")
    conn.execute("DELETE FROM t")
    conn.execute("SELECT 1", read_level="linearizable")  # the writer sees the newest state
    conn.rollback()


def test_trace(conn: Connection) -> None:
    traced: list[str] = []
    conn.set_trace_callback(traced.append)
    with conn:
        conn.execute("INSERT INTO t(id) VALUES (1)")
    conn.set_trace_callback(None)
    conn.execute("SELECT 1")
    assert traced == ["BEGIN ", "INSERT INTO t(id) VALUES (1)", "COMMIT"]
