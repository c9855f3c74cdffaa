"""dqlite_py.sqltext: where a statement goes and where the statements of a script end."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlite_py.errors import DataError, ProgrammingError
from dqlite_py.sqltext import Completion, StatementKind, describe, is_complete, split_script


@pytest.mark.parametrize(
    ("sql", "kind", "keyword"),
    [
        ("SELECT 1", StatementKind.READ, "SELECT"),
        ("  -- note\n\t/* more; */ select 1", StatementKind.READ, "SELECT"),
        ("\ufeffselect 1", StatementKind.READ, "SELECT"),
        ("; ; VALUES (1)", StatementKind.READ, "VALUES"),
        ("EXPLAIN QUERY PLAN DELETE FROM t", StatementKind.READ, "EXPLAIN"),
        ("insert into t values (1)", StatementKind.INSERT, "INSERT"),
        ("Replace Into t values (1)", StatementKind.INSERT, "REPLACE"),
        ("UPDATE t SET a = 1", StatementKind.CHANGE, "UPDATE"),
        ("DELETE FROM t", StatementKind.CHANGE, "DELETE"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", StatementKind.READ, "SELECT"),
        (
            "WITH a(x) AS NOT MATERIALIZED (SELECT (1)) INSERT INTO t SELECT x FROM a",
            StatementKind.INSERT,
            "INSERT",
        ),
        ("WITH RECURSIVE a AS (VALUES (1)), b AS (SELECT 2) DELETE FROM t", StatementKind.CHANGE, "DELETE"),
        ("WITH replace AS (SELECT ')') SELECT * FROM replace", StatementKind.READ, "SELECT"),
        ('WITH "insert" AS (SELECT 1) UPDATE t SET a = 1', StatementKind.CHANGE, "UPDATE"),
        ("WITH nonsense", StatementKind.ASK, "WITH"),
        ("CREATE TABLE t (a)", StatementKind.SCHEMA, "CREATE"),
        ("VACUUM", StatementKind.SCHEMA, "VACUUM"),
        ("PRAGMA user_version", StatementKind.ASK, "PRAGMA"),
        ("SELEC 1", StatementKind.ASK, "SELEC"),
        ("(SELECT 1)", StatementKind.ASK, ""),
        ("BEGIN IMMEDIATE", StatementKind.TRANSACTION, "BEGIN"),
        ("/**/end", StatementKind.TRANSACTION, "END"),
        ("ROLLBACK TO a", StatementKind.TRANSACTION, "ROLLBACK"),
        ("", StatementKind.EMPTY, ""),
        (" ;; -- nothing", StatementKind.EMPTY, ""),
        ("/* unfinished", StatementKind.EMPTY, ""),
    ],
)
def test_kind(sql: str, kind: StatementKind, keyword: str) -> None:
    assert describe(sql)[:2] == (kind, keyword)


@pytest.mark.parametrize(
    ("sql", "is_single"),
    [
        ("SELECT 1;", True),
        ("SELECT 1; -- the end ;\n ;", True),
        ("SELECT ';', \";\", `;`, [;] /* ; */", True),
        ("SELECT 1; SELECT 2", False),
        ("SELECT 'it''s; fine'", True),
        ("CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END;", True),
        ("CREATE TEMP TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; END; SELECT 3", False),
        ("CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; END", True),
    ],
)
def test_single(sql: str, is_single: bool) -> None:
    assert describe(sql).is_single is is_single


def test_split_script() -> None:
    script = """
        -- schema
        CREATE TABLE t (a);;
        CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t WHERE a < 0; END;
        INSERT INTO t VALUES ('x;y') ; /* last */ SELECT 1
    """
    statements = split_script(script)
    assert [describe(sql).keyword for sql in statements] == ["CREATE", "CREATE", "INSERT", "SELECT"]
    assert all(describe(sql).is_single for sql in statements)
    assert split_script(" ; -- none") == []


def test_text_that_sqlite_cannot_take() -> None:
    with pytest.raises(ProgrammingError, match="null character"):
        describe("SELECT 1\0; DROP TABLE t")
    with pytest.raises(DataError, match="UTF-8"):
        describe("SELECT '\ud800'")
    with pytest.raises(ProgrammingError, match="bytes"):
        describe(b"SELECT 1")  # type: ignore[arg-type]


def test_unfinished_text_is_scanned_once() -> None:
    """Unterminated strings and comments must not take quadratic time."""
    for opening in ("'", '"', "`", "[", "/*", "/* *", "'' '"):
        assert describe("SELECT " + opening + "x* '" * 100_000).keyword == "SELECT"


_PIECES = st.sampled_from(
    [
        *(
            "CREATE",
            "TEMP",
            "TEMPORARY",
            "TRIGGER",
            "EXPLAIN",
            "QUERY",
            "END",
            "SELECT",
            "x",
            "1",
            ";",
            "';'",
        ),
        *("'a''b'", '";"', "[;]", "`;`", "-- ;\n", "/* ; */", "(", ")", "é", "."),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=14))
def test_ends_agree_with_sqlite(pieces: list[str]) -> None:
    """Every statement but the last is complete to SQLite, and no proper prefix of one is."""
    statements = split_script(" ".join(pieces))
    assert all(sqlite3.complete_statement(sql) for sql in statements[:-1])
    for sql in statements:
        for end, char in enumerate(sql[:-1], 1):
            if char == ";" and sql[: end - 1].strip():
                assert not sqlite3.complete_statement(sql[:end]) or not sql[end:].strip()


@given(
    st.lists(st.sampled_from([*"'\"`[];/*-\n x", "''", "/*", "*/", "--", "CREATE TRIGGER ", "BEGIN", " END"]))
)
def test_a_text_that_comes_in_lines_is_complete_when_the_whole_is(parts: list[str]) -> None:
    text = "".join(parts) + "\n"
    completion = Completion()
    for line in text.splitlines(keepends=True):
        found = completion.feed(line)
    assert found is is_complete(text)
    assert found is sqlite3.complete_statement(text)
