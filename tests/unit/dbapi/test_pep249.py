"""PEP 249, requirement by requirement (peps.python.org/pep-0249), on the module dqlite_py.dbapi.

Every test runs twice: on the fake gateway, and on a real node.
"""

from __future__ import annotations

import datetime
import inspect
import pickle
import time
from collections.abc import Iterator

import pytest

from dqlite_py import Node, dbapi
from dqlite_py.dbapi import Connection, Cursor
from tests.support.fakegateway import FakeGateway


@pytest.fixture(scope="module", autouse=True)
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node") / "data", listen="127.0.0.1:0") as running:
        running.connect("main").close()
        yield running


@pytest.fixture(params=["fake", "node"])
def conn(request: pytest.FixtureRequest) -> Iterator[Connection]:
    fake = FakeGateway()
    if request.param == "fake":
        connection = dbapi.connect(fake, "main", isolation_level=None)
    else:
        running: Node = request.getfixturevalue("node")
        connection = running.connect("main", isolation_level=None)
        connection.execute("DROP TABLE IF EXISTS booze")
    connection.execute("CREATE TABLE booze (name TEXT, litres REAL, made DATE, label BLOB)")
    yield connection
    connection.close()
    fake.close()


@pytest.fixture
def filled(conn: Connection) -> Cursor:
    conn.executemany("INSERT INTO booze(name) VALUES (?)", [(name,) for name in "abcde"])
    return conn.execute("SELECT name FROM booze ORDER BY name")


# -- module interface -----------------------------------------------------------------------------------


def test_globals() -> None:
    assert dbapi.apilevel == "2.0"
    assert dbapi.threadsafety in (0, 1, 2, 3)
    assert dbapi.paramstyle == "qmark"
    assert callable(dbapi.connect)
    assert all(hasattr(dbapi, name) for name in dbapi.__all__)


def test_exception_tree() -> None:
    parents = {
        dbapi.Warning: Exception,
        dbapi.Error: Exception,
        dbapi.InterfaceError: dbapi.Error,
        dbapi.DatabaseError: dbapi.Error,
        dbapi.DataError: dbapi.DatabaseError,
        dbapi.OperationalError: dbapi.DatabaseError,
        dbapi.IntegrityError: dbapi.DatabaseError,
        dbapi.InternalError: dbapi.DatabaseError,
        dbapi.ProgrammingError: dbapi.DatabaseError,
        dbapi.NotSupportedError: dbapi.DatabaseError,
    }
    for child, parent in parents.items():
        assert issubclass(child, parent)
        assert getattr(Connection, child.__name__) is child
    assert not issubclass(dbapi.Warning, dbapi.Error)
    assert not issubclass(dbapi.InterfaceError, dbapi.DatabaseError)


def test_errors_survive_pickling() -> None:
    error = dbapi.IntegrityError("no", code=2067, statement=3)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.code, copy.details) == (type(error), "no", 2067, {"statement": 3})


def test_constructors() -> None:
    ticks = time.mktime((2026, 3, 4, 5, 6, 7, 0, 0, -1))
    assert dbapi.Date(2026, 3, 4) == dbapi.DateFromTicks(ticks) == datetime.date(2026, 3, 4)
    assert dbapi.Time(5, 6, 7) == dbapi.TimeFromTicks(ticks) == datetime.time(5, 6, 7)
    whole = datetime.datetime(2026, 3, 4, 5, 6, 7)
    assert dbapi.Timestamp(2026, 3, 4, 5, 6, 7) == dbapi.TimestampFromTicks(ticks) == whole
    assert dbapi.Binary(b"\0") == b"\0"


def test_constructed_values_are_parameters(conn: Connection) -> None:
    values = (dbapi.Date(2026, 3, 4), dbapi.Time(5, 6, 7), dbapi.Timestamp(2026, 3, 4), dbapi.Binary(b"\xff"))
    row = conn.execute("SELECT ?, ?, ?, ?", values).fetchone()
    assert row == ("2026-03-04", "05:06:07", "2026-03-04 00:00:00", b"\xff")


def test_type_objects(conn: Connection) -> None:
    cursor = conn.execute("SELECT name, litres, made, label, 1 FROM booze")
    kinds = [column[1] for column in cursor.description or ()]
    assert kinds[:4] == [dbapi.STRING, dbapi.NUMBER, dbapi.DATETIME, dbapi.BINARY]
    assert kinds[4] is None
    everything = [dbapi.STRING, dbapi.BINARY, dbapi.NUMBER, dbapi.DATETIME, dbapi.ROWID]
    assert len(set(everything)) == 5
    for kind in kinds[:4]:
        assert sum(kind == known for known in everything) == 1


# -- connection -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["close", "commit", "rollback", "cursor"])
def test_connection_methods(conn: Connection, name: str) -> None:
    assert callable(getattr(conn, name))
    conn.commit()
    getattr(conn, name)()


def test_commit_and_rollback_return_none(conn: Connection) -> None:
    assert inspect.signature(conn.commit).parameters == {}
    assert conn.commit() is None  # type: ignore[func-returns-value]
    assert conn.rollback() is None  # type: ignore[func-returns-value]


def test_closed_connection_is_unusable(conn: Connection) -> None:
    cursor = conn.cursor()
    conn.close()
    for use in (conn.cursor, conn.commit, lambda: cursor.execute("SELECT 1"), cursor.fetchall):
        with pytest.raises(dbapi.Error):
            use()


def test_cursors_of_a_connection_see_each_other(conn: Connection) -> None:
    first, second = conn.cursor(), conn.cursor()
    first.execute("INSERT INTO booze(name) VALUES ('x')")
    second.execute("SELECT name FROM booze")
    assert second.fetchall() == [("x",)]


# -- cursor ---------------------------------------------------------------------------------------------


def test_cursor_before_anything_ran(conn: Connection) -> None:
    cursor = conn.cursor()
    assert (cursor.description, cursor.rowcount, cursor.arraysize) == (None, -1, 1)
    assert cursor.connection is conn
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall):
        with pytest.raises(dbapi.Error):
            fetch()


def test_fetching_without_a_result_set(conn: Connection) -> None:
    cursor = conn.execute("INSERT INTO booze(name) VALUES ('x')")
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall):
        with pytest.raises(dbapi.Error):
            fetch()
    assert list(cursor) == []


def test_description(filled: Cursor) -> None:
    assert filled.description is not None
    [column] = filled.description
    assert len(column) == 7
    assert column[0] == "name"
    assert column[1] == dbapi.STRING


def test_fetchone(filled: Cursor) -> None:
    assert [filled.fetchone() for _ in range(6)] == [("a",), ("b",), ("c",), ("d",), ("e",), None]
    assert filled.fetchone() is None


def test_fetchmany(filled: Cursor) -> None:
    assert filled.fetchmany() == [("a",)]
    assert filled.fetchmany(2) == [("b",), ("c",)]
    filled.arraysize = 10
    assert filled.fetchmany() == [("d",), ("e",)]
    assert filled.fetchmany() == []
    assert filled.fetchmany(0) == []
    with pytest.raises(dbapi.ProgrammingError):
        filled.fetchmany(-1)


def test_fetchall_takes_the_rest(filled: Cursor) -> None:
    filled.fetchone()
    assert (filled.rownumber, filled.fetchall(), filled.rownumber) == (1, [("b",), ("c",), ("d",), ("e",)], 5)
    assert filled.fetchall() == []


def test_iteration(filled: Cursor) -> None:
    assert iter(filled) is filled
    assert next(filled) == ("a",)
    assert [row[0] for row in filled] == ["b", "c", "d", "e"]
    with pytest.raises(StopIteration):
        next(filled)


def test_rowcount(conn: Connection) -> None:
    cursor = conn.cursor()
    cursor.executemany("INSERT INTO booze(name) VALUES (?)", [("a",), ("b",)])
    assert cursor.rowcount == 2
    cursor.execute("SELECT * FROM booze")
    assert cursor.rowcount in (-1, 2)
    cursor.execute("DELETE FROM booze WHERE name = 'a'")
    assert cursor.rowcount == 1


def test_parameters_by_position_and_name(conn: Connection) -> None:
    cursor = conn.cursor()
    for params in ((1, "é"), [1, "é"]):
        assert cursor.execute("SELECT ?, ?", params).fetchone() == (1, "é")
    assert cursor.execute("SELECT :a, :b, :a", {"a": 1, "b": None}).fetchone() == (1, None, 1)
    for sql, wrong in (("SELECT ?", ()), ("SELECT ?", (1, 2)), ("SELECT :a", {})):
        with pytest.raises(dbapi.ProgrammingError):
            cursor.execute(sql, wrong)


def test_sizes_are_accepted(conn: Connection) -> None:
    cursor = conn.cursor()
    cursor.setinputsizes([25])
    cursor.setoutputsize(1000)
    cursor.setoutputsize(2000, 0)


def test_closed_cursor_is_unusable(filled: Cursor) -> None:
    filled.close()
    for use in (filled.fetchone, filled.fetchall, lambda: filled.execute("SELECT 1"), lambda: list(filled)):
        with pytest.raises(dbapi.Error):
            use()
