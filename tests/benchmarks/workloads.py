"""The workloads: what one operation is. Drivers give a Client; whether it blocks or returns an awaitable is theirs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

SCHEMA = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, value TEXT)",
    "CREATE TABLE model(key TEXT, value TEXT, UNIQUE(key))",  # as dqlite-benchmark's
    "CREATE TABLE lookup(id INTEGER PRIMARY KEY, value TEXT)",
)
INSERT = "INSERT INTO t(value) VALUES (?)"
PUT = "INSERT OR REPLACE INTO model(key, value) VALUES (?, ?)"
FILL = "INSERT INTO lookup(value) VALUES (?)"
READ = "SELECT value FROM lookup WHERE id = ?"
LOOKUP_ROWS = 10_000
BATCH_ROWS = 1000
ATOMIC_ROWS = 10
KEY_BYTES = 32
READ_SHARE = 0.8


class Client(Protocol):
    """One client. Each call is one operation, acknowledged when it returns (or its awaitable is done)."""

    def insert(self, value: str) -> Any: ...
    def put(self, key: str, value: str) -> Any: ...
    def many(self, values: list[str]) -> Any: ...
    def atomic(self, values: list[str]) -> Any: ...
    def read(self, number: int) -> Any: ...


Operation = Callable[[], Any]
Make = Callable[[Client, random.Random], Operation]


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    title: str
    make: Make
    rows_per_op: int = 1
    level: str = "linearizable"  # of its reads


def _insert(size: int) -> Make:
    value = "x" * size
    return lambda client, _rng: lambda: client.insert(value)


def _put(size: int) -> Make:
    value = "x" * size

    def make(client: Client, rng: random.Random) -> Operation:
        return lambda: client.put(f"{rng.getrandbits(4 * KEY_BYTES):0{KEY_BYTES}x}", value)

    return make


def _many(client: Client, _rng: random.Random) -> Operation:
    values = ["x" * 100] * BATCH_ROWS
    return lambda: client.many(values)


def _atomic(client: Client, _rng: random.Random) -> Operation:
    values = ["x" * 100] * ATOMIC_ROWS
    return lambda: client.atomic(values)


def _read(client: Client, rng: random.Random) -> Operation:
    return lambda: client.read(1 + int(rng.random() * LOOKUP_ROWS))


def _mixed(client: Client, rng: random.Random) -> Operation:
    read, write = _read(client, rng), _put(100)(client, rng)
    return lambda: read() if rng.random() < READ_SHARE else write()


def sized(size: int) -> Workload:
    """Single-row INSERT of a value of `size` bytes."""
    return Workload(f"insert:{size}", f"single-row INSERT, {size:,} B", _insert(size))


KNOWN = {
    workload.name: workload
    for workload in (
        Workload("insert", "single-row INSERT, 100 B", _insert(100)),
        Workload("kv100", "KV upsert, 100 B", _put(100)),
        Workload("kv1k", "KV upsert, 1 KiB", _put(1024)),
        Workload("batch1000", "executemany of 1,000 rows", _many, BATCH_ROWS),
        Workload("tx10", "transaction of 10 rows", _atomic, ATOMIC_ROWS),
        Workload("mixed", "80 % linearizable reads, 20 % upserts", _mixed),
        Workload("read-stale", "point read, stale", _read, level="stale"),
        Workload("read-linearizable", "point read, linearizable", _read),
    )
}
WRITES = ("insert", "kv100", "kv1k", "batch1000", "tx10")
READS = ("read-stale", "read-linearizable")


def workload(name: str) -> Workload:
    """A known one, or insert:BYTES."""
    if name in KNOWN:
        return KNOWN[name]
    kind, _, size = name.partition(":")
    if kind != "insert" or not size.isdecimal():
        raise KeyError(f"no workload is called {name!r}")
    return sized(int(size))
