"""What is read of the files that people have."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from dqlite_py.storage.source_file import SourceFile


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with SourceFile(str(path)) as source:
        return {
            t.name: [row for some, _ in source.batches(t, 1000) for row in some] for t in source.plan.tables
        }


def test_what_only_the_wal_holds(tmp_path: Path) -> None:
    """As a program leaves it that was killed; also copied without the -shm."""
    live, copy = tmp_path / "live.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(live, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t(a)")
        db.execute("INSERT INTO t VALUES ('in the wal')")
        shutil.copy(live, copy)
        shutil.copy(f"{live}-wal", f"{copy}-wal")
    assert rows(copy) == {"t": [(1, "in the wal")]}


def test_another_encoding_and_page_size(tmp_path: Path) -> None:
    path = tmp_path / "utf16.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA encoding = 'UTF-16be'")
        db.execute("PRAGMA page_size = 65536")
        db.execute("CREATE TABLE t(a TEXT PRIMARY KEY, twice AS (a || a)) WITHOUT ROWID")
        db.execute("INSERT INTO t VALUES ('ü€😀')")
    assert rows(path) == {"t": [("ü€😀",)]}


def test_groups_are_circles_and_parents_come_first(tmp_path: Path) -> None:
    path = tmp_path / "graph.db"
    edges = {"a": "b", "b": "c", "c": "b", "d": "e", "e": "f", "f": "d", "g": "a", "h": "h", "i": "nowhere"}
    with closing(sqlite3.connect(path)) as db, db:
        for child, parent in edges.items():
            db.execute(f"CREATE TABLE {child}(x INTEGER PRIMARY KEY REFERENCES {parent}(x))")
        db.execute("CREATE TABLE j(x REFERENCES c(x), y REFERENCES f(x))")
    with SourceFile(str(path)) as source:
        groups = ["".join(table.name for table in group) for group in source.plan.groups]
    assert sorted(groups) == ["a", "bc", "def", "g", "h", "i", "j"]
    assert groups.index("bc") < groups.index("a") < groups.index("g")
    assert max(groups.index("bc"), groups.index("def")) < groups.index("j")
