"""Changes as a stream: watching changes nothing, and what is told is all that happened."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgpack
import pytest

from dqlite_py.errors import ChangesCompacted, InterfaceError
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.changelog.log import ChangeLog
from dqlite_py.storage.engine import DatabaseEngine
from tests.property.test_engine_determinism import SCHEMA, Workload
from tests.support.changes import FOLLOW, Copy, FollowedDatabase
from tests.support.engines import Unit, entry, script

pytestmark = pytest.mark.usefixtures("implementation")

EMPTYING = [
    "DELETE FROM plain",
    "DELETE FROM keyed",
    "DELETE FROM audit",
    "DELETE FROM docs",
    "DELETE FROM boxes",
    "INSERT INTO docs (docs) VALUES ('delete-all')",
    "DROP TABLE audit",
    "CREATE TABLE audit (what TEXT, n INTEGER, total INTEGER, rowid_before INTEGER, r BLOB, at REAL)",
    "DROP TABLE docs",
    "CREATE VIRTUAL TABLE docs USING fts5 (title, body)",
    "DROP VIEW everything",
]


class EmptyingWorkload(Workload):
    def unit(self) -> Unit:
        if self.random.random() < 0.1:
            return script(self.random.choice(EMPTYING))
        return super().unit()


@pytest.mark.parametrize("seed", range(6))
def test_watching_an_entry_changes_neither_its_pages_nor_its_results(tmp_path: Path, seed: int) -> None:
    logs = [ChangeLog(str(tmp_path / name), SystemDisk()) for name in ("watched-changes", "late-changes")]
    engines = [
        DatabaseEngine.open(str(tmp_path / f"{name}.db"), create=True, statements_max=statements)
        for name, statements in (("plain", 256), ("watched", 8), ("late", 256))
    ]
    plain, watched, late = engines
    try:
        watched.keep_changes(logs[0])
        load = EmptyingWorkload(seed)
        for index in range(1, 160):
            payload = {1: entry(*map(script, SCHEMA)), 10: entry(FOLLOW)}.get(index) or load.entry()
            expected = plain.apply(index, payload, want_results=True)
            found = watched.apply(index, payload, want_results=True)
            assert msgpack.unpackb(found.results) == msgpack.unpackb(expected.results), index
            assert found.state_hash == expected.state_hash, index
            assert late.apply(index, payload, want_results=False).state_hash == expected.state_hash, index
            if index == 60:
                assert late.keep_changes(logs[1])
        assert [log.extent.log_index for log in logs] == [index, index]
    finally:
        for engine in engines:
            engine.close()
        for log in logs:
            log.close(InterfaceError("closed"))


# -- a copy that hears of changes only ------------------------------------------------------------------

TABLES = [
    "CREATE TABLE plain (id INTEGER PRIMARY KEY, k TEXT UNIQUE, v)",
    "CREATE TABLE named (k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v)",
    "CREATE TABLE bare (a, b)",
    "CREATE TABLE pair (a INTEGER, b TEXT, v, w, PRIMARY KEY (b, a)) WITHOUT ROWID",
    "CREATE TABLE loose (a NOT NULL, b NOT NULL, v, PRIMARY KEY (a, b))",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, n)",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE made (id INTEGER PRIMARY KEY, v, twice AS (v * 2) STORED, thrice AS (v * 3))",
    "CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, what, n)",
    "CREATE TRIGGER plain_audit AFTER UPDATE ON plain BEGIN"
    " INSERT INTO audit (what, n) VALUES ('plain', new.id); DELETE FROM bare WHERE a = new.v; END",
    "CREATE TRIGGER bare_empty AFTER INSERT ON bare WHEN new.b = 'empty' BEGIN DELETE FROM audit; END",
]


class RowWork:
    """Entries of every way to change rows, some failing half-way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tables = 0

    def value(self) -> Any:
        r = self.random
        return r.choice(
            [None, r.randrange(20), r.random(), "x" * r.randrange(9), r.randbytes(r.randrange(40)), -1]
        )

    def units(self) -> list[Unit]:
        r = self.random
        return [
            [self.statement() for _ in range(r.choice((1, 1, 2, 5)))]
            for _ in range(r.choice((1, 1, 2, 8, 20)))
        ]

    def statement(self) -> tuple[str, Any]:
        r = self.random
        i, j, k = r.randrange(30), r.randrange(30), r.choice("aAbBcCdD")
        v = self.value
        return r.choice(
            [
                ("INSERT OR REPLACE INTO plain VALUES (?, ?, ?)", [i, f"k{j}", v()]),
                (
                    "INSERT INTO plain (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = ?",
                    [f"k{j}", v(), v()],
                ),
                ("UPDATE OR REPLACE plain SET k = ?, id = ? WHERE id = ?", [f"k{j}", i, r.randrange(30)]),
                ("UPDATE plain SET id = id + 100 WHERE id = ?", [i]),
                ("UPDATE plain SET v = ?, id = id - 100 WHERE id > 99", [v()]),
                ("DELETE FROM plain WHERE id = ?", [i]),
                ("DELETE FROM plain WHERE id > 1000" if r.random() < 0.9 else "DELETE FROM plain", []),
                ("INSERT OR FAIL INTO plain (k) VALUES ('f' || ?1), ('f' || ?1)", [i]),
                ("INSERT OR ROLLBACK INTO plain (id) VALUES (?)", [i]),
                ("INSERT OR REPLACE INTO named VALUES (?, ?)", [k, v()]),
                ("UPDATE named SET k = ?, v = ? WHERE k = ?", [k.swapcase(), v(), k]),
                ("INSERT INTO bare VALUES (?, ?)", [v(), r.choice(["empty", 1, 2])]),
                ("INSERT OR REPLACE INTO bare (rowid, a) VALUES (?, ?)", [i, v()]),
                ("UPDATE bare SET rowid = ?, b = ? WHERE rowid = ?", [i + 50, v(), i]),
                ("DELETE FROM bare" if r.random() < 0.1 else "DELETE FROM bare WHERE b IS NULL", []),
                ("INSERT OR REPLACE INTO pair VALUES (?, ?, ?, ?)", [i % 5, k, v(), v()]),
                ("UPDATE OR REPLACE pair SET a = a + 1, w = ? WHERE b = ?", [v(), k]),
                ("UPDATE pair SET v = v", []),
                ("DELETE FROM pair WHERE a = ?", [i % 5]),
                ("INSERT OR REPLACE INTO loose VALUES (?, ?, ?)", [i % 4, k, v()]),
                ("UPDATE OR IGNORE loose SET a = ?, v = ? WHERE b = ?", [i % 4, v(), k]),
                ("INSERT OR IGNORE INTO parent VALUES (?, ?)", [i, v()]),
                ("INSERT INTO child (p) VALUES (?)", [i]),
                ("UPDATE OR IGNORE parent SET id = ? WHERE id = ?", [j, i]),
                ("DELETE FROM parent WHERE id = ?", [i]),
                ("DELETE FROM parent" if r.random() < 0.1 else "DELETE FROM parent WHERE id < 0", []),
                ("INSERT OR REPLACE INTO made (id, v) VALUES (?, ?)", [i, j]),
                ("UPDATE made SET v = v + 1 WHERE id % 3 = ?", [i % 3]),
                *self._definitions(),
            ]
        )

    def _definitions(self) -> list[tuple[str, Any]]:
        if self.random.random() > 0.15:
            return []
        self.tables += 1
        return [
            (f"CREATE TABLE t{self.tables} AS SELECT * FROM plain", []),
            (f"CREATE TABLE t{self.tables} (a, b PRIMARY KEY NOT NULL)", []),
            (f"DROP TABLE IF EXISTS t{max(1, self.tables - self.random.randrange(1, 6))}", []),
            (f"INSERT INTO t{max(1, self.tables - 1)} SELECT * FROM t{max(1, self.tables - 2)}", []),
            (f"CREATE INDEX i{self.tables} ON plain (v)", []),
        ]


@pytest.mark.parametrize("seed", range(8))
def test_a_copy_that_hears_of_changes_only_is_the_same(tmp_path: Path, seed: int) -> None:
    work = RowWork(seed)
    told = 0
    oldest = []
    with FollowedDatabase(tmp_path / "main.db") as database:
        database.apply(*map(script, TABLES))
        copy = Copy()
        after = 0
        for _ in range(120):
            database.apply(*work.units())
            if work.random.random() < 0.1:
                database.reopen()
            try:
                copy.apply(database.changes(after))
                told += 1
            except ChangesCompacted as error:  # a table was dropped and its name used again, say
                oldest.append((error.details["oldest"], database.engine.applied_index))
                copy.start_again(database)
            after = database.engine.applied_index
            assert copy.content() == database.content()
        copy.close()
    assert told > 100
    assert all(found == applied for found, applied in oldest)
