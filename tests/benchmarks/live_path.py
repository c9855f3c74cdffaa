"""What a live transaction costs the leader, in CPU time per call, beside the same statements in apsw.

    python -m tests.benchmarks.live_path [--rounds 5] [--calls 20000]

The median over the rounds, which take turns. Ours: storage.live.LiveTransaction, the body ready, the result as bytes.
apsw: one cursor of a plain connection inside BEGIN IMMEDIATE, rows as Python values. replay: a commit's apply of all
groups of that round, per group.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import apsw

from dqlite_py.command import encode_statements, encode_units, stamp_unit, transaction_unit
from dqlite_py.storage.engine import DatabaseEngine

NOW_US, SEED = 1_700_000_000_000_000, bytes(16)
ROWS = 10_000
STATEMENTS = (
    ("SELECT v FROM t WHERE id = ?", (77,)),
    ("UPDATE t SET v = ? WHERE id = ?", ("another", 77)),
    ("INSERT INTO log VALUES (?)", ("a line",)),
)
SETUP = (
    ("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", ()),
    ("CREATE TABLE log (line)", ()),
    (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO t SELECT i, 'v' FROM n",
        (ROWS,),
    ),
)
Times = defaultdict[str, list[float]]


def cpu_us(call: Callable[[], object], calls: int) -> float:
    """CPU time of one call."""
    start = time.process_time_ns()
    for _ in range(calls):
        call()
    return (time.process_time_ns() - start) / calls / 1000


def apply(engine: DatabaseEngine, unit: bytes) -> None:
    payload = encode_units("main", NOW_US, SEED, None, [unit])
    engine.apply(engine.applied_index + 1, payload, want_results=True)


def live_round(engine: DatabaseEngine, calls: int, times: Times) -> None:
    times["begin and finish"].append(cpu_us(lambda: engine.live_begin(NOW_US, SEED).finish(), calls))
    live = engine.live_begin(NOW_US, SEED)
    for statement in STATEMENTS:
        run = partial(live.run, encode_statements([statement]), 10.0)
        times[statement[0]].append(cpu_us(run, calls))
    groups, digest = live.finish()
    unit = transaction_unit(groups, digest, None)
    times["replay, per group"].append(cpu_us(lambda: apply(engine, unit), 1) / len(groups))


def _run(cursor: apsw.Cursor, sql: str, params: tuple[object, ...]) -> Sequence[object]:
    return cursor.execute(sql, params).fetchall()


def apsw_round(connection: apsw.Connection, calls: int, times: Times) -> None:
    cursor = connection.cursor()
    cursor.execute("BEGIN IMMEDIATE")
    for sql, params in STATEMENTS:
        times[f"apsw: {sql}"].append(cpu_us(partial(_run, cursor, sql, params), calls))
    cursor.execute("ROLLBACK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args()
    times: Times = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        engine = DatabaseEngine.open(str(Path(folder) / "a.db"), create=True)
        engine.apply(
            1,
            encode_units("main", NOW_US, SEED, None, [stamp_unit(encode_statements(SETUP), None)]),
            want_results=False,
        )
        connection = apsw.Connection(str(Path(folder) / "a.db"))
        for _ in range(options.rounds):
            live_round(engine, options.calls, times)
            apsw_round(connection, options.calls, times)
        connection.close()
        engine.close()
    for what, found in times.items():
        print(f"{median(found):8.2f} us  {what}")


if __name__ == "__main__":
    main()
