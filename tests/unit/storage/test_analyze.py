"""ANALYZE and REINDEX of everything become statements that the log takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dqlite_py.storage.analyze import expand_general
from dqlite_py.storage.readers import ReaderPool
from tests.support.engines import Database, one, script

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "ANALYZE t", 'REINDEX "i"', "ANALYZE main.t", "VACUUM", "EXPLAIN SELECT 1"]
)
def test_other_statements_stay(sql: str) -> None:
    assert expand_general(sql, list) is None


def test_expanded_statements_are_applied(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as db:
        db.apply(
            script(
                "CREATE TABLE z (a)",
                'CREATE TABLE "odd "" name" (a)',
                "CREATE INDEX i ON z (a)",
                "CREATE VIRTUAL TABLE f USING fts5 (a)",
                "CREATE VIEW v AS SELECT 1",
                "INSERT INTO z VALUES (1), (2)",
            )
        )
        pool = ReaderPool(str(db.path), 1)
        try:
            for keyword in ("ANALYZE", "REINDEX"):
                statements = expand_general(f" /* all */ {keyword.lower()};", pool.tables)
                assert statements == [f'{keyword} "odd "" name"', f'{keyword} "z"']
                assert all(result[0] == 0 for result in db.apply(*(one(sql) for sql in statements)))
        finally:
            pool.close()
        assert db.query("SELECT tbl, idx FROM sqlite_stat1") == [["z", "i"]]
