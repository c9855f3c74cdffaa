"""Writes under a key that the caller holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dqlite_py
from dqlite_py import dbapi
from dqlite_py.errors import InterfaceError, ProgrammingError
from tests.support.fakegateway import FakeGateway

INSERT = [("INSERT INTO t(v) VALUES (?) RETURNING id", (7,))]


@pytest.fixture(scope="module", autouse=True)
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dqlite_py.Node]:
    with dqlite_py.Node(tmp_path_factory.mktemp("node")) as running:
        running.connect("app").close()
        yield running


@pytest.fixture(params=["fake", "node"])
def connect(request: pytest.FixtureRequest) -> Any:
    if request.param == "fake":
        with FakeGateway() as gateway:
            yield lambda: dbapi.connect(gateway, "app", isolation_level=None)
    else:
        running: dqlite_py.Node = request.getfixturevalue("node")
        running.connect("app", isolation_level=None).execute("DROP TABLE IF EXISTS t")
        yield lambda: running.connect("app", isolation_level=None)


def test_a_repetition_has_the_first_result(connect: Any) -> None:
    first, other = connect(), connect()
    first.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    key = first.new_key()
    assert first.execute_atomic(INSERT, key=key)[0].fetchall() == [(1,)]
    first.execute("INSERT INTO t(v) VALUES (8)")
    assert other.execute_atomic(INSERT, key=key)[0].fetchall() == [(1,)]
    assert other.execute("SELECT count(*) FROM t").fetchone() == (2,)
    assert other.execute_atomic(INSERT, key=other.new_key())[0].fetchall() == [(3,)]
    first.close()
    other.close()


def test_what_is_no_key_is_refused(connect: Any) -> None:
    connection = connect()
    key = connection.new_key()
    for wrong in ("key", (b"x", 1), key._replace(session=b"x"), key._replace(sequence=0)):
        with pytest.raises(InterfaceError, match="key"):
            connection.execute_atomic(INSERT, key=wrong)
    connection.execute("BEGIN")
    with pytest.raises(ProgrammingError, match="key of its own"):
        connection.execute_atomic(INSERT, key=key)
    connection.rollback()
    connection.close()
