"""What is told of every kind of change, and what following does to the engine: both engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.changes import ChangeKind
from dqlite_py.errors import ChangesCompacted
from dqlite_py.storage.engine_api import FOLLOW_SQL
from tests.support.changes import FOLLOW, FollowedDatabase
from tests.support.engines import Database, one, script

pytestmark = pytest.mark.usefixtures("implementation")
INSERT, UPDATE, DELETE, SCHEMA = ChangeKind.INSERT, ChangeKind.UPDATE, ChangeKind.DELETE, ChangeKind.SCHEMA


@pytest.fixture
def database(tmp_path: Path) -> Iterator[FollowedDatabase]:
    with FollowedDatabase(tmp_path / "main.db") as database:
        yield database


def told(database: FollowedDatabase, *statements: str) -> list[tuple[Any, ...]]:
    """What one entry of one unit changes."""
    after = database.engine.applied_index
    database.apply(script(*statements))
    return [(c.kind, c.table, dict(c.key), c.old, c.new) for c in database.changes(after)]


def test_a_table_without_a_key_is_told_by_rowid(database: FollowedDatabase) -> None:
    told(database, "CREATE TABLE t (a, b)")
    assert told(database, "INSERT INTO t VALUES (1, x'00ff')") == [
        (INSERT, "t", {"_rowid_": 1}, None, {"a": 1, "b": b"\x00\xff"})
    ]
    assert told(database, "UPDATE t SET b = NULL") == [
        (UPDATE, "t", {"_rowid_": 1}, {"b": b"\x00\xff"}, {"b": None})
    ]
    assert told(database, "UPDATE t SET rowid = 5") == [
        (DELETE, "t", {"_rowid_": 1}, {"a": 1, "b": None}, None),
        (INSERT, "t", {"_rowid_": 5}, None, {"a": 1, "b": None}),
    ]


def test_a_composite_key(database: FollowedDatabase) -> None:
    told(database, "CREATE TABLE t (a, v, b TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID")
    assert told(database, "INSERT INTO t VALUES (1, 2.5, 'x')") == [
        (INSERT, "t", {"a": 1, "b": "x"}, None, {"a": 1, "v": 2.5, "b": "x"})
    ]
    assert told(database, "DELETE FROM t") == [
        (DELETE, "t", {"a": 1, "b": "x"}, {"a": 1, "v": 2.5, "b": "x"}, None)
    ]


def test_what_is_undone_or_put_back_is_not_told(database: FollowedDatabase) -> None:
    told(database, "CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)", "INSERT INTO t VALUES (1, 'a')")
    after = database.engine.applied_index
    results = database.apply(
        script("INSERT INTO t VALUES (2, 'b')", "INSERT INTO t VALUES (3, 'a')"),
        one("INSERT OR ROLLBACK INTO t VALUES (4, 'a')"),
        one("UPDATE t SET v = 'z'"),
        one("UPDATE t SET v = 'a'"),
        one("INSERT INTO t VALUES (5, 'five')"),
    )
    assert [result[0] == 0 for result in results] == [False, False, True, True, True]
    assert [(c.kind, dict(c.key)) for c in database.changes(after)] == [(INSERT, {"id": 5})]


def test_replace_triggers_and_cascades(database: FollowedDatabase) -> None:
    told(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY, u UNIQUE)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE)",
        "CREATE TABLE log (id INTEGER PRIMARY KEY, what)",
        "CREATE TRIGGER gone AFTER DELETE ON c BEGIN INSERT INTO log (what) VALUES (old.id); END",
        "INSERT INTO p VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO c VALUES (7, 1)",
    )
    assert told(database, "DELETE FROM p WHERE id = 1") == [
        (DELETE, "c", {"id": 7}, {"id": 7, "p": 1}, None),
        (DELETE, "p", {"id": 1}, {"id": 1, "u": "a"}, None),
        (INSERT, "log", {"id": 1}, None, {"id": 1, "what": 7}),
    ]
    assert told(database, "REPLACE INTO p VALUES (3, 'b')") == [
        (DELETE, "p", {"id": 2}, {"id": 2, "u": "b"}, None),
        (INSERT, "p", {"id": 3}, None, {"id": 3, "u": "b"}),
    ]


def test_keys_that_compare_equal_are_kept_apart(database: FollowedDatabase) -> None:
    told(
        database,
        "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v, w)",
        "INSERT INTO t VALUES ('a', 1, 2)",
    )
    assert told(database, "UPDATE t SET k = 'A', v = 3") == [
        (DELETE, "t", {"k": "a"}, {"k": "a", "v": 1, "w": 2}, None),
        (INSERT, "t", {"k": "A"}, None, {"k": "A", "v": 3, "w": 2}),
    ]
    assert told(database, "UPDATE t SET k = 'a'", "UPDATE t SET k = 'A'") == []
    assert told(database, "UPDATE t SET k = 'a'", "UPDATE t SET k = 'A', w = 9") == [
        (UPDATE, "t", {"k": "A"}, {"w": 2}, {"w": 9})
    ]


def test_definitions(database: FollowedDatabase) -> None:
    (made,) = told(database, "CREATE TABLE t (a)")
    assert made[:3] == (SCHEMA, "t", {"type": "table", "name": "t"})
    assert made[3] is None
    assert made[4]["sql"] == "CREATE TABLE t (a)"
    assert [each[2]["name"] for each in told(database, "CREATE INDEX i ON t (a)")] == ["i"]
    (altered,) = told(database, "ALTER TABLE t ADD COLUMN b DEFAULT 5")
    assert altered[3]["sql"] == "CREATE TABLE t (a)"
    assert altered[4]["sql"] == "CREATE TABLE t (a, b DEFAULT 5)"
    assert told(database, "INSERT INTO t VALUES (1, 2)")[0][4] == {"a": 1, "b": 2}
    renamed = told(database, "ALTER TABLE t RENAME TO u")
    assert [(each[3]["name"], each[4]["name"]) for each in renamed] == [("t", "u"), ("i", "i")]
    assert told(database, "UPDATE u SET b = 3")[0][1] == "u"
    assert [each[2]["name"] for each in told(database, "DROP TABLE u")] == ["u", "i"]


def test_a_created_table_is_told_with_its_rows(database: FollowedDatabase) -> None:
    told(database, "CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (2)")
    found = told(database, "CREATE TABLE u AS SELECT a * 10 AS b FROM t")
    assert [(each[0], each[4]) for each in found[1:]] == [(INSERT, {"b": 10}), (INSERT, {"b": 20})]


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE t", "CREATE TABLE t (a, b)"],
        ["UPDATE t SET a = 2", "ALTER TABLE t DROP COLUMN b"],
        [
            "CREATE TABLE n (a, b)",
            "INSERT INTO n SELECT * FROM t",
            "DROP TABLE t",
            "ALTER TABLE n RENAME TO t",
        ],
        ["DELETE FROM t", "DROP TABLE t"],
    ],
)
def test_what_cannot_be_told_begins_anew(database: FollowedDatabase, statements: list[str]) -> None:
    told(database, "CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1)")
    with pytest.raises(ChangesCompacted) as caught:
        told(database, *statements)
    assert caught.value.details["oldest"] == database.engine.applied_index
    assert [each[1] for each in told(database, "CREATE TABLE after (a)")] == ["after"]


def test_tables_of_modules_and_our_own_are_not_told(database: FollowedDatabase) -> None:
    found = told(database, "CREATE VIRTUAL TABLE docs USING fts5 (body)")
    assert [each[2] for each in found] == [{"type": "table", "name": "docs"}]
    assert told(database, "INSERT INTO docs VALUES ('words')") == []
    assert [each[2]["name"] for each in told(database, "DROP TABLE docs")] == ["docs"]


# -- the engine ---------------------------------------------------------------------------------------------


def test_dropping_works_where_changes_are_followed(tmp_path: Path) -> None:
    """The authorizer's answer that makes DELETE go row by row would keep DROP from doing anything."""
    with Database(tmp_path / "main.db") as database:
        database.apply(FOLLOW)
        assert database.engine.is_followed
        database.apply(
            script(
                "CREATE TABLE t (a UNIQUE)",
                "CREATE VIEW v AS SELECT a FROM t",
                "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END",
                "CREATE VIRTUAL TABLE docs USING fts5 (body)",
                "CREATE TABLE child (t REFERENCES t (a))",
            )
        )
        for statement in (
            "DROP TRIGGER g",
            "DROP VIEW v",
            "DROP TABLE docs",
            "DROP TABLE child",
            "DROP TABLE t",
        ):
            assert database.apply(one(statement))[0][0] == 0
        names = database.query("SELECT name FROM sqlite_schema WHERE name NOT LIKE '\\_dqlite%' ESCAPE '\\'")
        assert names == []


def test_only_the_one_statement_is_allowed(tmp_path: Path) -> None:
    with Database(tmp_path / "main.db") as database:
        for statement in (
            FOLLOW_SQL + " ",
            FOLLOW_SQL.lower(),
            FOLLOW_SQL.replace("_changes", "_other"),
            "DROP TABLE _dqlite_changes",
            "INSERT INTO _dqlite_changes VALUES (1)",
        ):
            assert database.apply(one(statement))[0][0] != 0
        assert not database.engine.is_followed
        assert database.apply(FOLLOW)[0][0] == 0
        assert database.engine.is_followed
        assert database.apply(one("DROP TABLE _dqlite_changes"))[0][0] != 0
        database.reopen()
        assert database.engine.is_followed


def test_a_log_begins_when_the_statement_is_applied(tmp_path: Path) -> None:
    with Database(tmp_path / "main.db") as plain:
        plain.apply(one("CREATE TABLE t (a)"))
    with FollowedDatabase(tmp_path / "main.db", create=False) as database:
        assert database.log.extent.oldest == 2
        with pytest.raises(ChangesCompacted):
            database.changes(1)
        database.apply(one("INSERT INTO t VALUES (1)"))
        assert [change.log_index for change in database.changes(2)] == [3]
