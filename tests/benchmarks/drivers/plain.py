"""SQLite alone, through apsw and through sqlite3: WAL, synchronous=FULL, one transaction per operation, no replication.

Writers share one connection behind a lock: with a connection each they would fight for SQLite's write lock by
sleeping (busy timeout), which is several times slower. Every reader has a connection of its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import apsw

from tests.benchmarks.counters import NodeRef
from tests.benchmarks.drivers.base import Cluster
from tests.benchmarks.workloads import FILL, INSERT, LOOKUP_ROWS, PUT, READ, SCHEMA


def missing() -> str:
    return ""


def open_apsw(folder: Path, nodes: int = 1, name: str = "") -> PlainCluster:
    return PlainCluster(folder, name or "sqlite-apsw", lambda path: apsw.Connection(path))


def open_sqlite3(folder: Path, nodes: int = 1, name: str = "") -> PlainCluster:
    return PlainCluster(
        folder,
        name or "sqlite-sqlite3",
        lambda path: sqlite3.connect(path, isolation_level=None, check_same_thread=False),
    )


class PlainClient:
    def __init__(self, writer: Any, lock: threading.Lock, reader: Any) -> None:
        self._writer = writer
        self._lock = lock
        self._reader = reader

    def insert(self, value: str) -> None:
        with self._lock:
            self._writer.execute(INSERT, (value,))

    def put(self, key: str, value: str) -> None:
        with self._lock:
            self._writer.execute(PUT, (key, value))

    def many(self, values: list[str]) -> None:
        with self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany(INSERT, [(value,) for value in values])
            self._writer.execute("COMMIT")

    atomic = many

    def read(self, number: int) -> None:
        if self._reader.execute(READ, (number,)).fetchone() is None:
            raise AssertionError(f"row {number} is missing")


class PlainCluster(Cluster):
    note = "no replication; writers share a connection behind a lock"

    def __init__(self, folder: Path, name: str, connect: Any) -> None:
        super().__init__(folder, 1)
        self.name = name
        self._path = str(folder / "plain.db")
        self._connect = connect
        self._readers: list[Any] = []
        self._lock = threading.Lock()
        self._writer = connect(self._path)
        self._writer.execute("PRAGMA journal_mode=WAL").fetchall()
        self._writer.execute("PRAGMA synchronous=FULL")
        for sql in SCHEMA:
            self._writer.execute(sql)
        self._writer.execute("BEGIN")
        self._writer.executemany(FILL, [("x" * 100,)] * LOOKUP_ROWS)
        self._writer.execute("COMMIT")

    def nodes(self) -> list[NodeRef]:
        return [NodeRef("here", os.getpid(), True)]

    def client(self, level: str) -> PlainClient:
        reader = self._connect(self._path)
        self._readers.append(reader)
        return PlainClient(self._writer, self._lock, reader)

    def close(self) -> None:
        for connection in (*self._readers, self._writer):
            connection.close()
