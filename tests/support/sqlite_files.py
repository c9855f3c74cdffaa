"""SQLite files with everything that a schema may hold, and what two files must have in common."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SCHEMA = """
CREATE TABLE plain(a INTEGER, b TEXT COLLATE NOCASE DEFAULT 'x', c BLOB, d REAL CHECK (d IS NULL OR d < 1e300));
CREATE TABLE keyed(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL);
CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES keyed(id) ON DELETE CASCADE DEFERRABLE INITIALLY
    DEFERRED);
CREATE TABLE compact(k TEXT, n INTEGER, v, PRIMARY KEY (k, n DESC)) WITHOUT ROWID;
CREATE TABLE strictly(i INTEGER, t TEXT, any_one ANY) STRICT;
CREATE TABLE made(a INTEGER, twice INTEGER GENERATED ALWAYS AS (a * 2) STORED, b TEXT, thrice AS (a * 3) VIRTUAL);
CREATE TABLE "odd ""name"(" a b" TEXT, "select" INTEGER, 'rowid' TEXT);
CREATE TABLE log(what TEXT);
CREATE INDEX by_expression ON plain(lower(b), a) WHERE a > 5;
CREATE UNIQUE INDEX "odd index" ON "odd ""name"("select");
CREATE VIEW big AS SELECT a, b FROM plain WHERE a > 100;
CREATE TRIGGER noted AFTER INSERT ON plain BEGIN INSERT INTO log VALUES ('plain ' || new.a); END;
CREATE TRIGGER into_view INSTEAD OF INSERT ON big BEGIN INSERT INTO plain(a, b) VALUES (new.a, new.b); END;
"""


def make_full(path: Path, rows: int = 2000, blob_bytes: int = 50) -> None:
    """A file with `rows` rows in each big table, gaps in the rowids, and values that are easily lost."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA)
        db.execute("PRAGMA user_version = 42")
        db.execute("PRAGMA application_id = 77")
        db.executemany(
            "INSERT INTO plain(rowid, a, b, c, d) VALUES (?, ?, ?, ?, ?)",
            ((3 * i - 50, i, f"text {i} é", bytes([i % 256]) * blob_bytes, i / 7) for i in range(rows)),
        )
        db.execute("DELETE FROM log WHERE rowid % 3 = 0")
        odd = [
            "",
            "nul\0inside",
            "quote ' \" \n\r",
            "\U0001f600",
            "9007199254740993",
            None,
            2**63 - 1,
            -(2**63),
            0.1,
        ]
        db.executemany(
            "INSERT INTO strictly VALUES (1, 't', ?)", [(value,) for value in [*odd, b"", b"\0\xff", 1.0]]
        )
        db.executemany("INSERT INTO plain(a, d) VALUES (?, ?)", [("not a number", None), (1.5, -0.0)])
        db.executemany("INSERT INTO keyed(name) VALUES (?)", ((f"n{i}",) for i in range(100)))
        db.execute("DELETE FROM keyed WHERE id > 90")
        db.executemany("INSERT INTO child VALUES (?, ?)", ((i, i % 90 + 1) for i in range(1, 200)))
        db.executemany(
            "INSERT INTO compact VALUES (?, ?, ?)", ((f"k{i % 7}", i, i * 0.5) for i in range(rows))
        )
        db.executemany("INSERT INTO made(a, b) VALUES (?, ?)", ((i, str(i)) for i in range(50)))
        db.execute('INSERT INTO "odd ""name" VALUES (?, ?, ?)', ("x", 1, "a rowid of its own"))


def contents(path: Path) -> dict[str, object]:
    """Schema, rows with their rowids, sequences and header values: equal for equal databases."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        found: dict[str, object] = {
            "schema": db.execute(
                "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_dqlite\\_%' ESCAPE '\\' "
                "ORDER BY type, name"
            ).fetchall(),
            "user_version": db.execute("PRAGMA user_version").fetchone(),
            "application_id": db.execute("PRAGMA application_id").fetchone(),
            "integrity": db.execute("PRAGMA integrity_check").fetchall(),
        }
        tables = db.execute(
            "SELECT name, wr FROM pragma_table_list WHERE type = 'table' AND schema = 'main'"
        ).fetchall()
        for name, without_rowid in tables:
            if name.startswith("_dqlite_") or name == "sqlite_schema":
                continue
            quoted = '"' + name.replace('"', '""') + '"'
            columns = "*" if without_rowid else "_rowid_, *"
            rows = db.execute(f"SELECT {columns} FROM {quoted}").fetchall()
            found[f"rows of {name}"] = [[(type(v).__name__, v) for v in row] for row in rows]
        return found
