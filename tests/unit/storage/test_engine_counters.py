"""changes(), total_changes(), last_insert_rowid() and deferred foreign keys: each unit starts anew, whoever looks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import Database, entry, one, script

COUNTS = "changes(), total_changes(), last_insert_rowid()"
THREE_ROWS = one("INSERT INTO t(a) VALUES (1), (2), (3)")
pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.run(("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", []), ("CREATE TABLE seen(c, n, r)", []))
        yield database


def seen(db: Database) -> list[list[int]]:
    return db.query("SELECT c, n, r FROM seen ORDER BY rowid")


def test_a_statement_that_names_them_sees_nothing_of_the_units_before(db: Database) -> None:
    look = one(f"INSERT INTO seen SELECT {COUNTS}")
    db.apply(THREE_ROWS, look, THREE_ROWS, look)
    assert seen(db) == [[0, 0, 0], [0, 0, 0]]


def test_a_statement_sees_what_its_own_unit_did(db: Database) -> None:
    (rowid,) = db.run(*THREE_ROWS)[0][1:2]
    look = (f'INSERT INTO seen SELECT "changes"(), Total_Changes(), last_insert_rowid() - {rowid}', [])
    db.apply([*THREE_ROWS, ("SELECT 1", []), look], [("SELECT 1", []), *THREE_ROWS, look])
    assert seen(db) == [[3, 3, 3], [3, 3, 6]]


@pytest.mark.parametrize(
    "schema",
    [
        ["CREATE TABLE d(a, c DEFAULT (changes()), n DEFAULT (total_changes()))"],
        [
            "CREATE TABLE d(a, c, n)",
            "CREATE TRIGGER g AFTER INSERT ON d WHEN new.c IS NULL BEGIN "
            "UPDATE d SET c = changes(), n = total_changes() WHERE rowid = new.rowid; END",
        ],
        [
            "CREATE TABLE d(a, c, n)",
            "CREATE VIEW v AS SELECT changes(), total_changes()",
            "CREATE TRIGGER g BEFORE INSERT ON d WHEN new.c IS NULL BEGIN "
            "INSERT INTO d SELECT new.a, * FROM v; SELECT RAISE(IGNORE); END",
        ],
    ],
    ids=["default", "trigger", "view"],
)
@pytest.mark.parametrize("same_entry", [True, False])
def test_the_schema_may_name_them_for_a_statement_that_does_not(
    db: Database, schema: list[str], same_entry: bool
) -> None:
    insert = one("INSERT INTO d(a) VALUES (1)")
    units = [insert, THREE_ROWS, script(*schema), THREE_ROWS, insert, THREE_ROWS, insert]
    if same_entry:
        db.apply(*units)
    else:
        for unit in units:
            db.apply(unit)
    assert db.query("SELECT c, n FROM d ORDER BY rowid") == [[0, 0], [0, 0]]


def test_last_insert_rowid_is_of_the_unit(db: Database) -> None:
    db.run(("CREATE TABLE w(k PRIMARY KEY) WITHOUT ROWID", []))
    results = db.apply(
        THREE_ROWS,
        one("INSERT INTO w VALUES (1)"),
        one("UPDATE t SET a = 2"),
        one("INSERT INTO w VALUES (2)"),
    )
    assert [result[1][0][1] for result in results] == [3, 0, 0, 0]
    look = one("INSERT INTO seen SELECT 0, 0, last_insert_rowid()")
    db.apply(THREE_ROWS, look, one("INSERT INTO w VALUES (3)"), look)
    assert [row[2] for row in seen(db)] == [0, 0]


def test_a_failed_unit_leaves_no_counts_behind(db: Database) -> None:
    look = one(f"INSERT INTO seen SELECT {COUNTS}")
    failing = [*THREE_ROWS, ("INSERT INTO t(id) VALUES (1)", []), ("INSERT INTO t(id) VALUES (1)", [])]
    results = db.apply(failing, look, one("INSERT OR FAIL INTO t(id) VALUES (8), (9), (8)"), look)
    assert [result[0] == 0 for result in results] == [False, True, False, True]
    assert seen(db) == [[0, 0, 0], [0, 0, 0]]


def test_results_wanted_or_not_the_state_is_the_same(tmp_path: Path) -> None:
    """What counters a statement finds must not hang on whether anybody read them for results."""
    statements = [
        ("INSERT INTO t(a) VALUES (1), (2)", []),
        (f"INSERT INTO seen SELECT {COUNTS}", []),
        ("INSERT INTO w VALUES (abs(random()))", []),
        ("UPDATE t SET a = last_insert_rowid() WHERE id = 1", []),
        ("INSERT INTO t(id) VALUES (1)", []),
        ("SELECT * FROM t", []),
    ]
    units = [list(unit) for size in (1, 2) for unit in itertools.product(statements, repeat=size)]
    with Database(tmp_path / "a.db") as leader, Database(tmp_path / "b.db") as follower:
        for node in (leader, follower):
            node.run(
                ("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", []),
                ("CREATE TABLE seen(c, n, r)", []),
                ("CREATE TABLE w(k PRIMARY KEY) WITHOUT ROWID", []),
            )
        for index, start in enumerate(range(0, len(units), 7), 2):
            part = units[start : start + 7]
            payload = entry(*part)
            wanted = leader.engine.apply(index, payload, want_results=True)
            unwanted = follower.engine.apply(index, payload, want_results=False)
            assert wanted.state_hash == unwanted.state_hash
            assert unwanted.results == b""


# -- deferred foreign keys ------------------------------------------------------------------------------

PARENT = "CREATE TABLE parent(id INTEGER PRIMARY KEY)"
CHILD = "CREATE TABLE child(p REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)"
ORPHAN = one("INSERT INTO child VALUES (7)")


def test_foreign_keys_are_noticed_from_the_moment_they_exist(db: Database) -> None:
    db.apply(THREE_ROWS)  # the schema is known, without any
    results = db.apply(THREE_ROWS, script(PARENT, CHILD), ORPHAN, THREE_ROWS)
    assert [result[0] for result in results] == [0, 0, 787, 0]
    assert db.apply(script("DROP TABLE child", CHILD, ORPHAN[0][0]), THREE_ROWS)[0][0] == 787
    assert db.apply(ORPHAN)[0][0] == 787


def test_a_column_may_bring_a_foreign_key(db: Database) -> None:
    db.run(("CREATE TABLE child(a)", []), (PARENT, []))
    assert db.apply(THREE_ROWS)[0][0] == 0
    add = "ALTER TABLE child ADD COLUMN p reFERENces parent(id) DEFERRABLE INITIALLY DEFERRED"
    results = db.apply(one(add), one("INSERT INTO child VALUES (1, 7)"))
    assert [result[0] for result in results] == [0, 787]
