"""Nodes that differ in everything but the log: the same entries give the same results and the same state hash.

One node is plain; one has a tiny cache, a two-statement cache, checkpoints and restarts at odd moments and does not
ask for results; one is rebuilt from a copy of the first's file now and then.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import msgpack
import pytest

from dqlite_py.limits import KIB
from dqlite_py.storage.engine import DatabaseEngine
from dqlite_py.storage.pagehash import scan_file
from dqlite_py.storage.readers import ReaderPool
from tests.support.engines import Unit, entry, script

pytestmark = pytest.mark.usefixtures("implementation")

SCHEMA = [
    "CREATE TABLE plain (id INTEGER PRIMARY KEY, k TEXT UNIQUE, v, at TEXT DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE keyed (k TEXT PRIMARY KEY, v BLOB, r INTEGER DEFAULT (random())) WITHOUT ROWID",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL CHECK (length(name) < 40))",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE, n INTEGER)",
    "CREATE TABLE late (id INTEGER PRIMARY KEY, p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE audit (what TEXT, n INTEGER, total INTEGER, rowid_before INTEGER, r BLOB, at REAL)",
    """CREATE TRIGGER plain_insert AFTER INSERT ON plain BEGIN
         INSERT INTO audit VALUES ('insert', changes(), total_changes(), last_insert_rowid(), randomblob(5),
                                   julianday('now'));
       END""",
    """CREATE TRIGGER plain_refuse BEFORE INSERT ON plain WHEN NEW.v = 'refuse' BEGIN
         INSERT INTO audit (what) VALUES ('refused'); SELECT RAISE(FAIL, 'refused');
       END""",
    """CREATE TRIGGER plain_kill BEFORE UPDATE ON plain WHEN NEW.v = 'kill' BEGIN
         SELECT RAISE(ROLLBACK, 'killed');
       END""",
    "CREATE INDEX plain_v ON plain (v, at)",
    "CREATE VIRTUAL TABLE docs USING fts5 (title, body)",
    "CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1)",
    "CREATE VIEW everything AS SELECT k, v FROM plain UNION ALL SELECT k, v FROM keyed",
]
WORDS = ["raft", "log", "term", "vote", "page", "wal", "frame", "state", "node", "leader", "quorum", "entry"]


class Workload:
    """Entries by seed: mostly good units, among them every way to fail."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_us = 1_700_000_000_000_000
        self.tables = 0

    def entry(self) -> bytes:
        self.now_us += self.random.randrange(5_000_000)
        unit = self.calm_unit if self.random.random() < 0.5 else self.unit
        units = [unit() for _ in range(self.random.choice((1, 1, 2, 8, 30)))]
        return entry(*units, now_us=self.now_us, seed=self.random.randbytes(16))

    def calm_unit(self) -> Unit:
        """A unit that succeeds: entries without a failure are executed in another way than those with one."""
        r = self.random
        text = " ".join(r.choices(WORDS, k=r.randrange(1, 30)))
        return [
            r.choice(
                [
                    ("INSERT INTO docs VALUES (?, ?)", [r.choice(WORDS), text]),
                    ("UPDATE docs SET body = ? WHERE rowid % 50 = ?", [text, r.randrange(50)]),
                    ("DELETE FROM docs WHERE rowid % 50 = ?", [r.randrange(50)]),
                    ("INSERT INTO boxes VALUES (NULL, ?, ?)", [r.randrange(50), 50 + r.randrange(50)]),
                    (
                        "INSERT OR REPLACE INTO keyed (k, v) VALUES (?, ?)",
                        [text, r.randbytes(r.randrange(3000))],
                    ),
                    ("SELECT changes(), total_changes(), last_insert_rowid(), random()", []),
                ]
            )
            for _ in range(r.choice((1, 1, 1, 3)))
        ]

    def unit(self) -> Unit:
        statements = [self.statement() for _ in range(self.random.choice((1, 1, 1, 2, 5)))]
        if self.random.random() < 0.1:  # executemany: one text, many parameter sets
            key = f"many{self.random.randrange(50)}"
            statements = [
                ("INSERT OR REPLACE INTO keyed (k, v) VALUES (?, ?)", [key + str(i), i]) for i in range(9)
            ]
        return statements

    def statement(self) -> tuple[str, Any]:
        r = self.random
        key, number = f"k{r.randrange(300)}", r.randrange(200)
        text = " ".join(r.choices(WORDS, k=r.randrange(1, 30)))
        blob = r.randbytes(r.choice((0, 5, 100, 1200, 9000)))
        return r.choice(
            [
                ("INSERT INTO plain (k, v) VALUES (?, ?)", [key, text]),
                ("INSERT OR REPLACE INTO plain (id, k, v) VALUES (?, ?, ?)", [number, key, blob]),
                (
                    "INSERT INTO plain (k, v) VALUES (:k, :v) ON CONFLICT (k) DO UPDATE SET v = :v RETURNING *",
                    {"k": key, "v": number},
                ),
                ("INSERT INTO plain (k, v) VALUES (?, ?) RETURNING id, at, random()", [key, blob]),
                ("INSERT OR FAIL INTO plain (k, v) VALUES ('f' || ?1, 1), ('f' || ?1, 2)", [number]),
                ("INSERT OR ROLLBACK INTO plain (id, k) VALUES (?, ?)", [number, key]),
                ("INSERT OR IGNORE INTO plain (id, k) VALUES (?, ?)", [number, key]),
                ("INSERT INTO plain (k, v) VALUES (?, 'refuse')", [key]),
                ("UPDATE plain SET v = 'kill' WHERE id = ?", [number]),
                ("UPDATE plain SET v = random() WHERE id % 7 = ?", [number % 7]),
                ("DELETE FROM plain WHERE id BETWEEN ? AND ?", [number, number + 5]),
                ("INSERT OR REPLACE INTO keyed (k, v) VALUES (?, ?)", [key, blob]),
                ("INSERT INTO keyed (k, v) SELECT k || 'x', v FROM plain ORDER BY random() LIMIT 3", []),
                (
                    "DELETE FROM keyed WHERE k > ? LIMIT 1"
                    if r.random() < 0.05
                    else "DELETE FROM keyed WHERE k = ?",
                    [key],
                ),
                ("INSERT INTO parent (name) VALUES (?)", [text]),
                ("INSERT INTO child (parent, n) SELECT id, ? FROM parent ORDER BY id LIMIT 4", [number]),
                ("INSERT INTO child (parent, n) VALUES (?, ?)", [number, number]),
                ("INSERT INTO late (p) VALUES (?)", [number]),
                ("DELETE FROM parent WHERE id = ?", [number]),
                ("INSERT INTO docs VALUES (?, ?)", [key, text]),
                (
                    "DELETE FROM docs WHERE docs MATCH ?",
                    [r.choice(WORDS)] if r.random() < 0.2 else ["nothing"],
                ),
                ("INSERT INTO docs (docs) VALUES ('integrity-check')", []),
                ("INSERT INTO boxes VALUES (?, ?, ?)", [number, number, number + r.randrange(-1, 9)]),
                ("SELECT count(*), max(at), changes(), total_changes(), last_insert_rowid() FROM plain", []),
                ("SELECT k, v FROM everything ORDER BY random() LIMIT 2", []),
                ("INSERT INTO plain (id, k) VALUES (9223372036854775807, ?)", [key]),
                ("INSERT INTO plain (k, v) VALUES (?, datetime('now', 'localtime'))", [key]),
                ("INSERT INTO keyed SELECT abs(id - 9223372036854775808), 1, 1 FROM plain", []),
                ("ANALYZE plain", []),
                ("REINDEX plain_v", []),
                ("REINDEX", []),
                ("ANALYZE", []),
                ("PRAGMA user_version = 5", []),
                ("this is not SQL", []),
                *self._definitions(number),
            ]
        )

    def _definitions(self, number: int) -> list[tuple[str, Any]]:
        if self.random.random() > 0.2:
            return []
        self.tables += 1
        return [
            (f"CREATE TABLE made{self.tables} (a, b, c DEFAULT (hex(randomblob(4))))", []),
            (f"CREATE INDEX made_index{self.tables} ON plain (at, v)", []),
            (f"DROP INDEX IF EXISTS made_index{max(1, self.tables - 3)}", []),
            (f"DROP TABLE IF EXISTS made{max(1, self.tables - 4)}", []),
            (f"ALTER TABLE plain ADD COLUMN extra{self.tables} DEFAULT {number}", []),
            (f"CREATE TABLE copy{self.tables} AS SELECT * FROM plain LIMIT 20", []),
        ]


class Nodes:
    """Three nodes fed with the same entries."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed + 1)
        self.folder = folder
        self.index = 0
        self.copies = 0
        self.plain = self._open("plain", create=True)
        self.odd = self._open("odd", create=True, odd=True)
        self.copy: DatabaseEngine | None = None
        self.reader: ReaderPool | None = None

    def _open(self, name: str, *, create: bool, odd: bool = False) -> DatabaseEngine:
        options: dict[str, Any] = {"cache_bytes": 64 * KIB, "statements_max": 2} if odd else {}
        return DatabaseEngine.open(str(self.folder / f"{name}.db"), create=create, **options)

    def apply(self, payload: bytes) -> None:
        self.index += 1
        expected = self.plain.apply(self.index, payload, want_results=True)
        wanted = self.random.random() < 0.7
        found = self.odd.apply(self.index, payload, want_results=wanted)
        assert found.state_hash == expected.state_hash, f"entry {self.index}"
        if wanted:
            assert msgpack.unpackb(found.results) == msgpack.unpackb(expected.results), f"entry {self.index}"
        if self.copy is not None:
            assert self.copy.apply(self.index, payload, want_results=True) == expected
        self.disturb()

    def disturb(self) -> None:
        chance = self.random.random()
        if chance < 0.04:
            self._close_reader()
            self.odd.close()
            self.odd = self._open("odd", create=False, odd=True)
            assert self.odd.pin_info() == self.plain.pin_info()
        elif chance < 0.12:
            self.odd.checkpoint_full()
        elif chance < 0.15:
            self._close_reader()
            self.reader = ReaderPool(str(self.folder / "odd.db"), 1)
            self.reader.query("SELECT count(*) FROM plain")
        elif chance < 0.17:
            self.remake_copy()

    def remake_copy(self) -> None:
        """A new node from the plain one's file, as a snapshot is installed."""
        assert self.plain.checkpoint_full()
        if self.copy is not None:
            self.copy.close()
        self.copies += 1
        path = self.folder / f"copy{self.copies}.db"
        # Closing the original's descriptor drops its locks: allowed only because nothing else has it open, and
        # the engine is opened anew at once.
        shutil.copyfile(self.folder / "plain.db", path)
        self.plain.close()
        self.plain = self._open("plain", create=False)
        assert scan_file(str(path)) == (self.plain.state_hash, self.plain.page_count)
        self.copy = DatabaseEngine.open(str(path), create=False)

    def _close_reader(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def close(self) -> None:
        self._close_reader()
        for engine in (self.plain, self.odd, self.copy):
            if engine is not None:
                engine.close()


def run(folder: Path, seed: int, entries: int) -> None:
    nodes, workload = Nodes(folder, seed), Workload(seed)
    try:
        nodes.apply(entry(script(*SCHEMA)))
        for _ in range(entries):
            nodes.apply(workload.entry())
        final = nodes.plain.pin_info()
    finally:
        nodes.close()
    for name in ("plain", "odd"):
        assert scan_file(str(folder / f"{name}.db")) == (final.state_hash, final.page_count)


@pytest.mark.parametrize("seed", range(4))
def test_same_log_same_state(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed, 100)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(100, 104))
def test_same_log_same_state_long(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed, 250)


def test_workload_holds_failures_and_successes(tmp_path: Path) -> None:
    """The comparison is worth something only if the entries reach the hard cases."""
    nodes, workload = Nodes(tmp_path, 1), Workload(1)
    codes: set[int] = set()
    try:
        nodes.apply(entry(script(*SCHEMA)))
        for _ in range(80):
            payload = workload.entry()
            nodes.index += 1
            result = nodes.plain.apply(nodes.index, payload, want_results=True)
            codes |= {unit[0] for unit in msgpack.unpackb(result.results)}
    finally:
        nodes.close()
    #      ok, SQL error, refused, UNIQUE, FK, RAISE, rowid
    assert {0, 1, 23, 2067, 787, 1811, 2579} <= codes
