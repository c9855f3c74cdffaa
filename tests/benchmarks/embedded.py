"""The leader inside this process, two follower processes: writes and reads through the embedded API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dqlite_py
from dqlite_py.cli.demo.processes import NodeProcess, free_addresses
from tests.benchmarks.figures import Figure, percentile

VALUE = "x" * 100
INSERT = "INSERT INTO t(value) VALUES (?)"
READY_TIMEOUT_S = 30.0
THREADS = 64


@contextmanager
def cluster(folder: Path) -> Iterator[dqlite_py.Node]:
    """A node that leads here; two more processes have joined and vote."""
    addresses = free_addresses(3)
    others = [
        NodeProcess(f"node{i + 2}", address, folder / f"node{i + 2}", (addresses[0],))
        for i, address in enumerate(addresses[1:])
    ]
    try:
        with dqlite_py.Node(folder / "node1", listen=addresses[0]) as node:
            for other in others:
                other.start()
            _wait_for_voters(node, 3)
            node.connect("app").execute("CREATE TABLE t(id INTEGER PRIMARY KEY, value TEXT)")
            yield node
            for other in others:
                other.terminate()
            for other in others:
                other.wait_stopped()
    finally:
        for other in others:
            other.kill()


def _wait_for_voters(node: dqlite_py.Node, count: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        members = node.status()["members"]
        if sum(member["role"] == "voter" for member in members) == count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} voters were expected within {READY_TIMEOUT_S:.0f} s: {members}")
        time.sleep(0.05)


def _timed(action: Callable[[], Any], seconds: float) -> tuple[float, list[float]]:
    """Rate per second and the latencies in ms of one caller."""
    latencies: list[float] = []
    started = now = time.perf_counter()
    while now - started < seconds:
        action()
        then, now = now, time.perf_counter()
        latencies.append((now - then) * 1000)
    return len(latencies) / (now - started), latencies


def _threaded(
    make: Callable[[], Callable[[], Any]], threads: int, seconds: float
) -> tuple[float, list[float]]:
    """The same with many callers, each with its own connection."""
    results: list[list[float]] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(_timed(make(), seconds)[1])
        except BaseException as error:
            failures.append(error)
            raise

    pool = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if failures:
        raise failures[0]
    latencies = [ms for result in results for ms in result]
    return len(latencies) / (time.perf_counter() - started), latencies


def sequential_writes(node: dqlite_py.Node, seconds: float) -> list[Figure]:
    conn = node.connect("app")
    _timed(lambda: conn.execute(INSERT, [VALUE]), 0.5)
    rate, ms = _timed(lambda: conn.execute(INSERT, [VALUE]), seconds)
    return [
        Figure("one writer", rate, "rows/s", 1000, note="single-row INSERT, durable on a majority"),
        Figure("one writer, p50", percentile(ms, 0.5), "ms", 1.0, True),
        Figure("one writer, p99", percentile(ms, 0.99), "ms"),
    ]


def concurrent_writes(node: dqlite_py.Node, seconds: float) -> list[Figure]:
    def make() -> Callable[[], Any]:
        conn = node.connect("app")
        return lambda: conn.execute(INSERT, [VALUE])

    rate, ms = _threaded(make, THREADS, seconds)
    return [
        Figure(f"{THREADS} writer threads", rate, "rows/s", 10_000, note="in the leader's process"),
        Figure(f"{THREADS} writer threads, p50", percentile(ms, 0.5), "ms"),
        Figure(f"{THREADS} writer threads, p99", percentile(ms, 0.99), "ms"),
    ]


def batched_writes(node: dqlite_py.Node, seconds: float) -> list[Figure]:
    conn, rows = node.connect("app"), [(VALUE,)] * 1000
    rate, ms = _timed(lambda: conn.executemany(INSERT, rows), seconds)
    return [
        Figure("executemany of 1,000", rate * 1000, "rows/s", note="one transaction per call"),
        Figure("executemany of 1,000, p50", percentile(ms, 0.5), "ms"),
    ]


def reads(node: dqlite_py.Node, seconds: float) -> list[Figure]:
    figures = []
    for level in ("linearizable", "stale"):
        conn = node.connect("app", read_level=dqlite_py.ReadLevel(level))
        rate, ms = _timed(lambda conn=conn: _read(conn), seconds / 2)  # type: ignore[misc]
        figures.append(Figure(f"one reader, {level}", rate, "reads/s", note="by primary key, on the leader"))
        figures.append(Figure(f"one reader, {level}, p50", percentile(ms, 0.5), "ms"))

    def make() -> Callable[[], Any]:
        conn = node.connect("app")
        return lambda: _read(conn)

    rate, _ms = _threaded(make, 16, seconds / 2)
    figures.append(Figure("16 reader threads, linearizable", rate, "reads/s"))
    return figures


def _read(conn: Any) -> None:
    if conn.execute("SELECT value FROM t WHERE id = ?", [1]).fetchone() is None:
        raise AssertionError("row 1 is missing")
