"""ALTER TABLE through the log, on both engines: SQLite looks into the temporary schema for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import Database, one

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.run(
            ("CREATE TABLE t(a, b, c)", []),
            ("CREATE INDEX i ON t(b)", []),
            ("CREATE VIEW v AS SELECT a, b FROM t", []),
            ("CREATE TABLE u(x)", []),
            ("CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO u VALUES (new.b); END", []),
        )
        yield database


def test_columns_and_tables_are_renamed_with_all_that_names_them(db: Database) -> None:
    db.run(("ALTER TABLE t RENAME COLUMN b TO z", []), ("ALTER TABLE t RENAME TO s", []))
    db.run(("INSERT INTO s(a, z, c) VALUES (1, 2, 3)", []))
    assert db.query("SELECT z FROM v") == [[2]]
    assert db.query("SELECT x FROM u") == [[2]]


def test_columns_are_added_and_dropped(db: Database) -> None:
    db.run(("ALTER TABLE t ADD COLUMN d DEFAULT 7", []), ("ALTER TABLE t DROP COLUMN c", []))
    db.run(("INSERT INTO t(a, b) VALUES (1, 2)", []))
    assert db.query("SELECT * FROM t") == [[1, 2, 7]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM sqlite_temp_master",
        "SELECT * FROM temp.sqlite_master",
        "INSERT INTO u SELECT name FROM sqlite_temp_schema",
        "CREATE TEMP TABLE x(a)",
    ],
)
def test_nothing_else_sees_the_temporary_schema(db: Database, sql: str) -> None:
    (result,) = db.apply(one("ALTER TABLE t RENAME COLUMN a TO y"), one(sql))[1:]
    code, message, _position = result
    assert code == 23
    assert "temporary objects" in message
