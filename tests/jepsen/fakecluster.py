"""A cluster of one SQLite in memory that keeps every promise, unless it is told which one to break.

Implements jepsen.cluster.api's Cluster, ClusterNode and the part of NodeClient that clients use; no processes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from jepsen.checkers.roles import WantedRoles
from jepsen.cluster.api import FinalState
from jepsen.cluster.client import Failed, Result, Unknown

FAULTS = (
    "lost-writes",  # every 7th write is acknowledged and forgotten
    "stale-reads",  # reads come from a copy that is renewed every 25 writes
    "torn-units",  # every 5th unit of several statements stops after the first
    "double-ids",  # every 10th answer repeats the one before
    "forgotten-keys",  # a write that is repeated under its key happens again
    "forked-reads",  # every other read hides keys 0 (modulo 3), the others hide keys 1
    "unknown-writes",  # no broken promise: every 9th write happens and its answer is lost
    "dead",  # no broken promise: nobody answers
    "differing-replicas",
)


class Store:
    """The one truth behind all nodes, and what is told of it."""

    def __init__(self, fault: str | None = None) -> None:
        assert fault is None or fault in FAULTS
        self.fault = fault
        self.lock = threading.Lock()
        self.db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.copy = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.writes = 0
        self.reads = 0
        self.last: Result | None = None
        self.keys = 0
        self.answers: dict[Any, list[Result]] = {}

    def close(self) -> None:
        self.db.close()
        self.copy.close()

    def write(self, statements: Sequence[tuple[str, Any]], key: Any = None) -> list[Result]:
        with self.lock:
            if self.fault == "dead":
                raise Failed("Connection", "nobody listens")
            if key in self.answers and self.fault != "forgotten-keys":
                return self.answers[key]
            self.writes += 1
            is_schema = statements[0][0].startswith(("CREATE", "INSERT OR IGNORE"))
            torn = self.fault == "torn-units" and self.writes % 5 == 0 and not is_schema
            lost = self.fault == "lost-writes" and self.writes % 7 == 0 and not is_schema
            self.db.execute("BEGIN")
            try:
                results = [_run(self.db, sql, params) for sql, params in statements[: 1 if torn else None]]
            except sqlite3.Error as error:
                self.db.execute("ROLLBACK")
                raise Failed(type(error).__name__, str(error)) from None
            results += [Result(None, [], 1, None)] * (len(statements) - len(results))
            self.db.execute("ROLLBACK" if lost else "COMMIT")
            if key is not None:
                self.answers[key] = results
            if is_schema or self.writes % 25 == 0:
                self.db.backup(self.copy)
            if self.fault == "unknown-writes" and self.writes % 9 == 0 and not is_schema:
                raise Unknown("Timeout", "no answer")
            if self.fault == "double-ids" and self.writes % 10 == 0 and self.last and not is_schema:
                return [self.last]
            if results[0].rows:
                self.last = results[0]
            return results

    def read(self, sql: str, params: Any) -> Result:
        with self.lock:
            if self.fault == "dead":
                raise Failed("Connection", "nobody listens")
            result = _run(self.copy if self.fault == "stale-reads" else self.db, sql, params)
            if self.fault == "forked-reads":
                self.reads += 1
                rows = [row for row in result.rows if row[0] % 3 != self.reads % 2]
                return Result(result.columns, rows, result.rowcount, result.lastrowid)
            return result


def _run(db: sqlite3.Connection, sql: str, params: Any) -> Result:
    cursor = db.execute(sql, params)
    rows = cursor.fetchall()
    columns = [column[0] for column in cursor.description] if cursor.description else None
    return Result(columns, rows, cursor.rowcount, cursor.lastrowid)


class FakeClient:
    def __init__(self, store: Store) -> None:
        self.store = store

    def execute(self, sql: str, params: Any = ()) -> Result:
        return self.store.write([(sql, params)])[0]

    is_closed = False

    def unit(self, statements: Sequence[tuple[str, Any]], key: Any = None) -> list[Result]:
        return self.store.write(statements, key)

    def transaction(self, statements: Sequence[tuple[str, Any]], begin: str) -> list[Result]:
        return self.store.write(statements)

    def new_key(self) -> tuple[str, int]:
        self.store.keys += 1
        return "00" * 16, self.store.keys

    def query(
        self,
        sql: str,
        params: Any = (),
        level: str = "linearizable",
        token: str | None = None,
        max_staleness: float | None = None,
    ) -> Result:
        return self.store.read(sql, params)

    def close(self) -> None:
        pass


class FakeNode:
    pid = None
    faults = None
    is_paused = False
    exit_code = None

    def __init__(self, name: str, folder: Path, store: Store) -> None:
        self.own_exits: list[int] = []
        self.name = name
        self.folder = folder / name
        self.log_path = folder / f"{name}.log"
        self.address = f"{name}:1"
        self.is_running = True
        self.store = store
        self.log_path.write_text("a quiet life\n")

    def start(self) -> None:
        self.is_running = True

    def kill(self) -> None:
        self.is_running = False

    def resume(self) -> None:
        pass

    def note_exit(self) -> None:
        pass

    def client(self, timeout_s: float = 5.0) -> Any:
        if not self.is_running:
            raise Failed("Connection", f"{self.name} is dead")
        return FakeClient(self.store)


class FakeNetwork:
    cuts: list[tuple[str, str]] = []  # noqa: RUF012 - never changed

    def heal(self) -> None:
        pass

    def delay(self, ms: float | None) -> None:
        pass


class FakeCluster:
    kind = "fake"

    def __init__(self, folder: Path, nodes: int = 3, fault: str | None = None) -> None:
        self.folder = folder
        self.count = nodes
        self.store = Store(fault)
        self.network = FakeNetwork()
        self.nodes: list[Any] = []
        self.is_removed = False
        self.wanted_roles: WantedRoles | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.nodes = [FakeNode(f"n{n + 1}", self.folder, self.store) for n in range(self.count)]
        return self

    def __exit__(self, *_exc: object) -> None:
        self.is_removed = True
        self.store.close()

    def wait_healthy(self, timeout_s: float = 60.0) -> None:
        pass

    def final_states(self, timeout_s: float = 60.0) -> dict[str, FinalState]:
        differs = self.store.fault == "differing-replicas"
        return {
            node.name: FinalState(7, f"app={number if differs else 0}", "c0ffee", 0)
            for number, node in enumerate(self.nodes)
        }
