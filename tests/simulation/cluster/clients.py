"""Clients of a simulated cluster: threads of the embedding server, using the public DB-API of whatever node is up.

Each client has one operation under way at a time and never repeats one. A write is one unit: it inserts (client,
number) into `ops` and makes that the value of a register; a read reads a register linearizably. What became of an
operation is told to the checks: acknowledged, certainly failed, or unknown.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dqlite_py.dbapi import Connection
from dqlite_py.errors import Error, NodeStopped, Outcome, OutcomeUnknown
from tests.simulation.cluster.life import LifeEnded
from tests.simulation.cluster.machine import Machine, NodeLife

DATABASES: Final = ("first", "second")
SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS ops(client INTEGER NOT NULL, number INTEGER NOT NULL, filler BLOB)",
    "CREATE TABLE IF NOT EXISTS registers(key INTEGER PRIMARY KEY, client INTEGER, number INTEGER)",
)
"""No uniqueness in `ops`: what is done twice has to show."""
INSERT: Final = "INSERT INTO ops(client, number, filler) VALUES (?, ?, ?)"
SET: Final = "INSERT OR REPLACE INTO registers(key, client, number) VALUES (?, ?, ?)"
GET: Final = "SELECT client, number FROM registers WHERE key = ?"
ALL_OPS: Final = "SELECT client, number FROM ops ORDER BY rowid"
ALL_REGISTERS: Final = "SELECT key, client, number FROM registers ORDER BY key"
KEYS_PER_DATABASE: Final = 3
KEYS: Final = KEYS_PER_DATABASE * len(DATABASES)
BIG: Final = 0.02  # probability of a big write


@dataclass(slots=True)
class Operation:
    """`kind`: write or read. `result` of a read: (client, number) of the write it saw, None for none."""

    client: int
    number: int
    kind: str
    key: int
    node: str
    began: float
    ended: float = -1.0
    outcome: str = "pending"  # acknowledged, failed (certainly), unknown
    error: str = ""
    result: tuple[int, int] | None = None

    @property
    def database(self) -> str:
        return DATABASES[self.key // KEYS_PER_DATABASE]


class Watcher(Protocol):
    """Who hears of operations (checks.Checks)."""

    def operation_began(self, operation: Operation) -> None: ...
    def operation_ended(self, operation: Operation) -> None: ...


class Client:
    """One client. `now`: simulated time."""

    def __init__(
        self, index: int, rng: random.Random, watcher: Watcher, now: Callable[[], float], big_bytes: int
    ) -> None:
        self.index = index
        self.rng = rng
        self.number = 0
        self.pending: Operation | None = None
        self.history: list[Operation] = []
        self.acknowledged_count = 0
        self._watcher = watcher
        self._now = now
        self._big_bytes = big_bytes
        self._connections: tuple[NodeLife | None, dict[str, Connection]] = (None, {})

    @property
    def is_idle(self) -> bool:
        return self.pending is None

    def begin(self, machine: Machine, *, read: bool, timeout_s: float) -> None:
        """Start an operation on a thread of the machine's process."""
        life = machine.life
        if life is None or not life.alive:
            return
        self.number += 1
        operation = Operation(
            self.index,
            self.number,
            "read" if read else "write",
            self.rng.randrange(KEYS),
            machine.name,
            self._now(),
        )
        self.pending = operation
        self.history.append(operation)
        self._watcher.operation_began(operation)
        life.on_end.append(lambda: self._ended(operation, OutcomeUnknown("the node's process ended")))
        life.spawn(lambda: self._perform(life, operation, timeout_s), f"client-{self.index}")

    def _perform(self, life: NodeLife, operation: Operation, timeout_s: float) -> None:
        try:
            connection = self._connect(life, operation.database, timeout_s)
        except Error as error:
            # Whatever became of opening the database, our unit was not sent.
            self._ended(operation, NodeStopped(f"not connected: {error}"))
            return
        try:
            if operation.kind == "read":
                row = connection.execute(GET, (operation.key,)).fetchone()
                operation.result = None if row is None else (row[0], row[1])
            else:
                is_big = self._big_bytes and self.rng.random() < BIG
                filler = self.rng.randbytes(self.rng.randrange(self._big_bytes if is_big else 200))
                connection.execute_atomic(
                    [
                        (INSERT, (operation.client, operation.number, filler)),
                        (SET, (operation.key, operation.client, operation.number)),
                    ]
                )
        except Error as error:
            self._ended(operation, error)
        else:
            self._ended(operation, None)

    def _connect(self, life: NodeLife, database: str, timeout_s: float) -> Connection:
        if self._connections[0] is not life:
            self._connections = (life, {})
        known = self._connections[1]
        if database not in known:
            assert life.node is not None
            known[database] = life.node.connect(database, timeout=timeout_s)
        return known[database]

    def _ended(self, operation: Operation, error: Error | None) -> None:
        if operation.outcome != "pending":
            return
        operation.ended = self._now()
        if error is None:
            operation.outcome = "acknowledged"
            self.acknowledged_count += 1
        else:
            operation.error = f"{type(error).__name__}: {error}"
            operation.outcome = "failed" if error.outcome is Outcome.NOT_APPLIED else "unknown"
        self.pending = None
        self._watcher.operation_ended(operation)


def create_tables(life: NodeLife, done: Callable[[Error | None], None]) -> None:
    """Make the databases on a thread of this process."""

    def work() -> None:
        assert life.node is not None
        with suppress(LifeEnded):
            try:
                for database in DATABASES:
                    connection = life.node.connect(database, timeout=10.0)
                    for statement in SCHEMA:
                        connection.execute(statement)
            except Error as error:
                done(error)
            else:
                done(None)

    life.spawn(work, "create-tables")


def rows_of(life: NodeLife) -> dict[str, list[Any]]:
    """What this node's tables hold now, read directly (no thread, no consensus)."""
    runtime = life.runtime
    assert runtime is not None
    found: dict[str, list[Any]] = {"ops": [], "registers": []}
    for database in DATABASES:
        pool = runtime.applier().readers.get(database)
        if pool is not None:
            found["ops"] += pool.query(ALL_OPS).rows
            found["registers"] += pool.query(ALL_REGISTERS).rows
    return found
