"""What is told of SQL by its text: PRAGMAs of the connection's own, RETURNING, the first statement and the rest."""

from __future__ import annotations

import pytest

from dqlite_py.server.dqlite.pragmas import own_pragma
from dqlite_py.server.dqlite.texts import first_of, look_at, statements_of


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("PRAGMA query_only", ("QUERY_ONLY", None)),
        ("pragma Query_Only = 1;", ("QUERY_ONLY", "1")),
        ("PRAGMA query_only(ON)", ("QUERY_ONLY", "ON")),
        ("PRAGMA main.foreign_keys = 'yes'", ("FOREIGN_KEYS", "YES")),
        ("PRAGMA busy_timeout = 5000 -- ms", ("BUSY_TIMEOUT", "5000")),
        ("PRAGMA journal_mode=WAL", ("JOURNAL_MODE", "WAL")),
        ("PRAGMA table_info(query_only)", None),
        ("PRAGMA user_version", None),
        ("PRAGMA", None),
        ("SELECT query_only", None),
        ("", None),
    ],
)
def test_pragmas_of_the_connection(sql: str, found: tuple[str, str | None] | None) -> None:
    assert own_pragma(sql) == found


@pytest.mark.parametrize(
    ("sql", "is_plain_write", "may_return", "changes_nothing"),
    [
        ("INSERT INTO t VALUES (1)", True, False, False),
        ("INSERT INTO t VALUES ('returning')", True, False, False),
        ("INSERT INTO t VALUES (1) -- RETURNING a", True, False, False),
        ("INSERT INTO t VALUES (1) RETURNING a", False, True, False),
        ("delete from t returning *", False, True, False),
        ("CREATE TABLE t (a)", True, False, False),
        ("SELECT 1", False, False, True),
        ("BEGIN", False, False, True),
        ("PRAGMA user_version", False, False, True),
        ("INSERT INTO t VALUES (1); SELECT 1", False, False, False),
        ("-- nothing", False, False, True),
    ],
)
def test_where_a_statement_goes(
    sql: str, is_plain_write: bool, may_return: bool, changes_nothing: bool
) -> None:
    text = look_at(sql)
    assert (text.is_plain_write, text.may_return, text.changes_nothing) == (
        is_plain_write,
        may_return,
        changes_nothing,
    )


def test_the_first_statement_and_whether_another_follows() -> None:
    trigger = "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END;"
    first = first_of(f";; {trigger} SELECT 'é'; ")
    assert (first.text.sql, first.size, first.has_more) == (f";; {trigger}", len(trigger) + 3, True)
    assert first_of("SELECT 'é'; -- that is all").has_more is False
    assert first_of("SELECT 'é';").size == len("SELECT 'é';".encode())
    assert first_of(" ; ").text.is_empty


def test_each_statement_of_a_text() -> None:
    assert [text.sql for text in statements_of("SELECT 1;; SELECT ';'; -- end")] == [
        "SELECT 1;",
        "SELECT ';';",
    ]
    assert [text.is_empty for text in statements_of("  ")] == [True]
