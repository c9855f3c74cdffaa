"""Reads: local ones beside plain apsw in one run, linearizable ones on the leader and on a follower.

python -m tests.benchmarks.bench_reads [SECONDS]

Local: medians of processor time per call, ours and apsw's in turn, on equal rows (apsw: a plain file in WAL mode with
the cache that our readers have). Linearizable: calls per second of 1, 16 and 64 threads, and processor time per call of
this process and of the others.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

import dqlite_py
from dqlite_py.cli.demo.processes import NodeProcess, free_addresses
from dqlite_py.storage.connection import READER_CACHE_BYTES
from tests.benchmarks import embedded
from tests.benchmarks.counters import used

POINT = "SELECT value FROM t WHERE id = ?"
SCAN = "SELECT id, value FROM t"
ROWS = 100_000
CALLS = 5_000
ROUNDS = 15
THREADS = (1, 16, 64)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with embedded.cluster(folder / "leads") as node:
            _fill(node)
            _beside_apsw(node, folder / "plain.db")
            _linearizable(node, "on the leader", seconds)
        with _follower(folder / "follows") as node:
            _linearizable(node, "on a follower", seconds)


def _fill(node: dqlite_py.Node) -> None:
    conn = node.connect("app", isolation_level=None)
    for _ in range(ROWS // 1_000):
        conn.executemany(embedded.INSERT, [(embedded.VALUE,)] * 1_000)


# -- local -------------------------------------------------------------------------------------------------


def _beside_apsw(node: dqlite_py.Node, path: Path) -> None:
    plain = apsw.Connection(str(path))
    plain.execute("PRAGMA journal_mode = WAL").fetchall()
    plain.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, value TEXT)")
    with plain:
        plain.executemany(embedded.INSERT, [(embedded.VALUE,)] * ROWS)
    plain.close()
    plain = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    plain.execute(f"PRAGMA cache_size = -{READER_CACHE_BYTES // 1024}").fetchall()
    ours = node.connect("app", isolation_level=None, read_level="stale")
    for what, unit, run in (
        ("point read, fetchone", "us", _points_fetchone),
        ("point read, fetchall", "us", _points_fetchall),
        (f"scan of {ROWS:,} rows", "ms", _scan),
    ):
        theirs, mine = [], []
        for _ in range(ROUNDS):
            theirs.append(run(plain.cursor()))
            mine.append(run(ours.cursor()))
        a, b = statistics.median(theirs), statistics.median(mine)
        scale = 1e6 if unit == "us" else 1e3
        print(f"{what:28} apsw {a * scale:8.2f} {unit}  ours {b * scale:8.2f} {unit}  ratio {b / a:.2f}")
    plain.close()


def _points_fetchone(cursor: Any) -> float:
    began = time.thread_time()
    for number in range(CALLS):
        cursor.execute(POINT, [number + 1]).fetchone()
    spent = time.thread_time() - began
    # Or the lock of its unfinished read would spare everybody else in this process the two system calls of theirs.
    cursor.close()
    return spent / CALLS


def _points_fetchall(cursor: Any) -> float:
    began = time.thread_time()
    for number in range(CALLS):
        cursor.execute(POINT, [number + 1]).fetchall()
    spent = time.thread_time() - began
    cursor.close()
    return spent / CALLS


def _scan(cursor: Any) -> float:
    began = time.thread_time()
    rows = cursor.execute(SCAN).fetchall()
    spent = time.thread_time() - began
    cursor.close()
    if len(rows) != ROWS:
        raise AssertionError(f"{len(rows)} rows instead of {ROWS}")
    return spent


# -- linearizable -------------------------------------------------------------------------------------------


@contextmanager
def _follower(folder: Path) -> Iterator[dqlite_py.Node]:
    """A node that follows here; a process that leads and one more that votes."""
    addresses = free_addresses(3)
    others = [
        NodeProcess("node1", addresses[0], folder / "node1", ()),
        NodeProcess("node2", addresses[1], folder / "node2", (addresses[0],)),
    ]
    try:
        for other in others:
            other.start()
        with dqlite_py.Node(folder / "node3", listen=addresses[2], join=[addresses[0]]) as node:
            embedded._wait_for_voters(node, 3)
            node.connect("app", isolation_level=None).execute(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, value TEXT)"
            )
            _fill(node)
            if node.status()["state"] != "follower":
                raise AssertionError("this node was to follow, but leads")
            yield node
        for other in others:
            other.terminate()
        for other in others:
            other.wait_stopped()
    finally:
        for other in others:
            other.kill()


def _linearizable(node: dqlite_py.Node, where: str, seconds: float) -> None:
    def make() -> Callable[[], Any]:
        cursor = node.connect("app", isolation_level=None).cursor()
        return lambda: cursor.execute(POINT, [7]).fetchone()

    others = _children()
    for threads in THREADS:
        embedded._threaded(make, threads, 0.5)
        here, there = time.process_time(), [used(pid).cpu_s for pid in others]
        rate, ms = embedded._threaded(make, threads, seconds)
        spent = (time.process_time() - here) / len(ms) * 1e6
        elsewhere = [
            f"{(used(pid).cpu_s - before) / len(ms) * 1e6:.0f}"
            for pid, before in zip(others, there, strict=True)
        ]
        print(
            f"linearizable {where}, {threads:2} threads: {rate:8,.0f}/s  p50 {statistics.median(ms):.2f} ms  "
            f"processor time per read: here {spent:.0f} us, others {' and '.join(elsewhere)} us"
        )


def _children() -> list[int]:
    text = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text()
    return [int(pid) for pid in text.split()]


if __name__ == "__main__":
    main()
