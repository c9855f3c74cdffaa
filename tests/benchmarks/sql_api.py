"""What programs pay: the DB-API's own time, tasks beside threads, transactions beside lone writes, large results.

A module of its own process (`python -m tests.benchmarks.sql_api --json FILE`): leader here, two followers as processes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import dqlite_py
from dqlite_py import aio
from dqlite_py.dbapi import Connection
from dqlite_py.gateway import QueryResult, StatementResult, UnitResult
from tests.benchmarks.embedded import cluster

CALLS = 20_000
STREAM_ROWS = 1_000_000
THREADS = 64
TASKS = 1_000
INSERT = "INSERT INTO t(value) VALUES (?)"
POINT = "SELECT id, value FROM t WHERE id = ?"


class InstantGateway:
    """Answers at once: what is left is the DB-API's own time."""

    def __init__(self) -> None:
        self._written = UnitResult(1, [StatementResult(1, 1)])
        self._found = QueryResult(("id", "value"), ("INTEGER", "TEXT"), [(1, "x")])

    def execute_unit(self, *_args: Any, **_named: Any) -> UnitResult:
        return self._written

    def query(self, *_args: Any, **_named: Any) -> QueryResult:
        return self._found

    def open_database(self, _database: str, _timeout_s: float) -> None: ...

    def is_read(self, _sql: str, _database: str) -> bool:
        return False


def own_time_us() -> dict[str, float]:
    """Processor time of the calling thread, per call, in the fastest of five rounds."""
    connection = Connection(InstantGateway(), "app", isolation_level=None)  # type: ignore[arg-type]
    cursor = connection.cursor()
    value = "x" * 100
    calls: dict[str, Callable[[], Any]] = {
        "execute, a write": lambda: cursor.execute(INSERT, (value,)),
        "execute, a point read": lambda: cursor.execute(POINT, (1,)).fetchone(),
    }
    found = {}
    for name, call in calls.items():
        rounds = []
        for _ in range(5):
            gc.collect()
            before = time.thread_time()
            for _ in range(CALLS):
                call()
            rounds.append((time.thread_time() - before) / CALLS * 1e6)
        found[name] = min(rounds)
    connection.close()
    return found


def threads_rate(node: dqlite_py.Node, seconds: float, **options: Any) -> float:
    """Inserts per second by THREADS threads."""
    counts: list[int] = []

    def work() -> None:
        connection = node.connect("app", isolation_level=None, **options)
        cursor, value, count = connection.cursor(), "x" * 100, 0
        while time.monotonic() < end:
            cursor.execute(INSERT, (value,))
            count += 1
        counts.append(count)
        connection.close()

    end = time.monotonic() + seconds
    pool = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if len(counts) != THREADS:
        raise RuntimeError("a writer thread failed; its traceback is above")
    return sum(counts) / seconds


def tasks_rate(node: dqlite_py.Node, seconds: float) -> float:
    """Inserts per second by TASKS tasks of one event loop."""

    async def work(connection: Any, end: float) -> int:
        value, count = "x" * 100, 0
        while time.monotonic() < end:
            await connection.execute(INSERT, (value,))
            count += 1
        return count

    async def run() -> float:
        connections = [await aio.connect(node, "app", isolation_level=None) for _ in range(TASKS)]
        end = time.monotonic() + seconds
        counts = await asyncio.gather(*(work(connection, end) for connection in connections))
        for connection in connections:
            await connection.close()
        return sum(counts) / seconds

    return asyncio.run(run())


def latencies_ms(node: dqlite_py.Node, seconds: float) -> tuple[list[float], list[float], list[float]]:
    """Of lone writes and of transactions (BEGIN IMMEDIATE, two reads, a write, COMMIT), taken in turns; and of the
    three statements inside those."""
    connection = node.connect("app", isolation_level=None)
    value = "x" * 100
    connection.execute("INSERT OR IGNORE INTO t(id, value) VALUES (1, ?)", (value,))
    lone: list[float] = []
    whole: list[float] = []
    inside: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection.execute(INSERT, (value,))
        middle = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        begun = time.perf_counter()
        connection.execute(POINT, (1,)).fetchone()
        connection.execute(POINT, (2,)).fetchone()
        connection.execute(INSERT, (value,))
        inside.append((time.perf_counter() - begun) * 1000)
        connection.execute("COMMIT")
        whole.append((time.perf_counter() - middle) * 1000)
        lone.append((middle - began) * 1000)
    connection.close()
    return lone, whole, inside


def stream(node: dqlite_py.Node, rows: int) -> tuple[float, float]:
    """Rows per second of a result of `rows` rows, and by how many MiB the process grew meanwhile."""
    connection = node.connect("app", isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS stream(id INTEGER PRIMARY KEY, a INTEGER, b TEXT)")
    for start in range(0, rows, 50_000):
        batch = ((n, n * 7, f"row {n}") for n in range(start, min(rows, start + 50_000)))
        connection.executemany("INSERT INTO stream VALUES (?, ?, ?)", batch)
    gc.collect()
    before, highest = _resident_mib(), 0.0
    began = time.perf_counter()
    count = 0
    for _row in connection.execute("SELECT id, a, b FROM stream"):
        count += 1
        if count % 100_000 == 0:
            highest = max(highest, _resident_mib())
    elapsed = time.perf_counter() - began
    connection.close()
    if count != rows:
        raise RuntimeError(f"{count} rows came, {rows} are there")
    return rows / elapsed, max(0.0, highest - before)


def _resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def measure(seconds: float, rounds: int, rows: int) -> Iterator[tuple[str, float]]:
    """(name, value) of each figure, as it is found."""
    for name, microseconds in own_time_us().items():
        yield f"us {name}", microseconds
    with tempfile.TemporaryDirectory(prefix="dqlite-sql-", dir=".") as folder, cluster(Path(folder)) as node:
        lone, whole, inside = latencies_ms(node, max(2.0, seconds))
        yield "ms lone write p50", statistics.median(lone)
        yield "ms transaction p50", statistics.median(whole)
        yield "ms its statements p50", statistics.median(inside)
        threads, plain, tasks = [], [], []
        for _ in range(rounds):
            threads.append(threads_rate(node, seconds))
            plain.append(threads_rate(node, seconds, exactly_once=False))
            tasks.append(tasks_rate(node, seconds))
        yield "/s threads", statistics.median(threads)
        yield "/s threads without keys", statistics.median(plain)
        yield "/s tasks", statistics.median(tasks)
        rate, grown = stream(node, rows)
        yield "rows/s stream", rate
        yield "MiB stream", grown


@click.command()
@click.option("--seconds", default=2.0, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--rows", default=STREAM_ROWS, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(seconds: float, rounds: int, rows: int, path: Path | None) -> None:
    found = {}
    for name, value in measure(seconds, rounds, rows):
        found[name] = value
        click.echo(f"{value:12,.2f} {name}")
    if path is not None:
        path.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
