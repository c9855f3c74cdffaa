"""dqlite_py.dbapi.row: the Row factory and custom factories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dqlite_py.dbapi import Connection, Cursor, Row, connect
from tests.support.fakegateway import FakeGateway


@pytest.fixture
def conn() -> Iterator[Connection]:
    with FakeGateway() as gateway:
        yield connect(gateway, "main", row_factory=Row)


def test_row_access(conn: Connection) -> None:
    row = conn.execute("SELECT 1 AS id, 'x' AS Name, NULL AS name").fetchone()
    assert (row[0], row[-1], row["ID"], row["name"], row[0:2]) == (1, None, 1, "x", (1, "x"))
    assert row.keys() == ["id", "Name", "name"]
    assert (len(row), tuple(row), 1 in row) == (3, (1, "x", None), True)
    assert dict(zip(row.keys(), row, strict=True)) == {"id": 1, "Name": "x", "name": None}
    assert repr(row) == "Row(id=1, Name='x', name=None)"
    with pytest.raises(IndexError, match="No item with that key"):
        row["nope"]
    with pytest.raises(IndexError):
        row[3]


def test_row_equality_and_hash(conn: Connection) -> None:
    one, same = conn.execute("SELECT 1 AS a UNION ALL SELECT 1").fetchall()
    other = conn.execute("SELECT 1 AS b").fetchone()
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != (1,)
    assert len({one, same, other}) == 2


def test_row_is_immutable_and_takes_part_in_calls(conn: Connection) -> None:
    row = conn.execute("SELECT 1 AS a, 2 AS b").fetchone()
    with pytest.raises(TypeError):
        row[0] = 5
    assert conn.execute("SELECT ? + ?", row).fetchone()[0] == 3


def test_every_way_to_fetch_uses_the_factory(conn: Connection) -> None:
    sql = "SELECT 1 AS a UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4"
    cursor = conn.execute(sql)
    rows = [cursor.fetchone(), *cursor.fetchmany(1), next(cursor), *cursor.fetchall()]
    assert [row["a"] for row in rows] == [1, 2, 3, 4]


def test_own_factory(conn: Connection) -> None:
    def as_dict(cursor: Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
        return {column[0]: value for column, value in zip(cursor.description or (), row, strict=True)}

    conn.row_factory = as_dict
    cursor = conn.execute("SELECT 1 AS a")
    assert cursor.fetchall() == [{"a": 1}]
    cursor.row_factory = None
    assert cursor.execute("SELECT 1").fetchall() == [(1,)]


def test_factory_of_unit_results(conn: Connection) -> None:
    [cursor] = conn.execute_atomic(["SELECT 5 AS a"])
    assert cursor.fetchone()["a"] == 5
