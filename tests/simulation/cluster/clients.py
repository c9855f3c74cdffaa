"""Clients of a simulated cluster: threads of the embedding server, using the public DB-API of whatever node is up.

Each client has one operation under way at a time and never repeats one. A write is one unit: it inserts (client,
number) into `ops` and makes that the value of a register; a read reads a register linearizably; a stale read reads a
whole database as the node has it. Some clients are programs outside, which ask by RPC (remote.py). What became of an
operation is told to the checks: acknowledged, certainly failed, or unknown.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dqlite_py.command import encode_statements
from dqlite_py.dbapi import Connection
from dqlite_py.errors import Error, NodeStopped, Outcome, OutcomeUnknown
from dqlite_py.gateway import ReadLevel
from dqlite_py.node.database_worker import unpack_result
from tests.simulation.cluster.life import LifeEnded
from tests.simulation.cluster.machine import Machine, NodeLife
from tests.simulation.cluster.remote import RemoteCaller

DATABASES: Final = ("first", "second")
SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS ops(client INTEGER NOT NULL, number INTEGER NOT NULL, filler BLOB)",
    "CREATE TABLE IF NOT EXISTS registers(key INTEGER PRIMARY KEY, client INTEGER, number INTEGER)",
)
"""No uniqueness in `ops`: what is done twice has to show."""
INSERT: Final = "INSERT INTO ops(client, number, filler) VALUES (?, ?, ?)"
SET: Final = "INSERT OR REPLACE INTO registers(key, client, number) VALUES (?, ?, ?)"
GET: Final = "SELECT client, number FROM registers WHERE key = ?"
TWICE: Final = "INSERT INTO registers(key) VALUES (?)"  # of a key that is there: the whole unit fails
STATE: Final = (
    "SELECT key, client, number FROM registers UNION ALL SELECT -1, count(*), 0 FROM ops ORDER BY key"
)
"""All of a small database in one statement: how many writes it holds, then every register."""
ALL_OPS: Final = "SELECT client, number FROM ops ORDER BY rowid"
ALL_REGISTERS: Final = "SELECT key, client, number FROM registers ORDER BY key"
KEYS_PER_DATABASE: Final = 3
KEYS: Final = KEYS_PER_DATABASE * len(DATABASES)
FILL_BYTES: Final = 32 * 1024
BIG: Final = 0.02  # probability of a big write
KINDS: Final = ("write",) * 6 + ("read",) * 3 + ("stale",)


@dataclass(slots=True)
class Operation:
    """`kind`: write, read or stale. `result` of a read: (client, number) of the write it saw, None for none.

    `state`: the rows of a stale read; `life`: of its machine, counted; -1: not known.
    """

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
    state: tuple[tuple[int, int, int], ...] = ()
    life: int = 0
    row: int | None = None  # that an acknowledged write was told to have made
    log_index: int = 0  # its token, where it was told

    @property
    def database(self) -> str:
        return DATABASES[self.key // KEYS_PER_DATABASE]


class Watcher(Protocol):
    """Who hears of operations (checks.Checks)."""

    def operation_began(self, operation: Operation) -> None: ...
    def operation_ended(self, operation: Operation) -> None: ...


class Client:
    """One client. `now`: simulated time. `remote`: how it asks when it is no thread of a node's process. `refused`:
    probability that a write breaks a constraint, and so must fail as a whole."""

    def __init__(
        self,
        index: int,
        rng: random.Random,
        watcher: Watcher,
        now: Callable[[], float],
        big_bytes: int,
        remote: RemoteCaller | None = None,
        refused: float = 0.0,
    ) -> None:
        self._refused = refused
        self.remote = remote
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

    def begin(self, machine: Machine, kind: str, *, timeout_s: float) -> None:
        """Start an operation on a thread of the machine's process, or from outside."""
        life = machine.life
        if life is None or not life.alive:
            return
        self.number += 1
        operation = Operation(
            self.index,
            self.number,
            kind,
            self.rng.randrange(KEYS),
            machine.name,
            self._now(),
            life=machine.life_count,
        )
        self.pending = operation
        self.history.append(operation)
        self._watcher.operation_began(operation)
        if self.remote is not None:
            self._ask(self.remote, machine, operation, timeout_s)
            return
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
                _show(operation, connection.execute(GET, (operation.key,)).fetchall())
            elif operation.kind == "stale":
                connection.read_level = ReadLevel.STALE
                _show(operation, connection.execute(STATE).fetchall())
            else:
                assert life.node is not None
                found = life.node.gateway.execute_unit(
                    operation.database, encode_statements(self._unit(operation)), timeout_s, once=self._once()
                )
                assert found.statements is not None
                operation.row = found.statements[0].last_insert_rowid
                operation.log_index = found.log_index
        except Error as error:
            self._ended(operation, error)
        else:
            self._ended(operation, None)

    def _ask(self, remote: RemoteCaller, machine: Machine, operation: Operation, timeout_s: float) -> None:
        body: dict[str, Any] = {"database": operation.database, "timeout_s": timeout_s}
        if operation.kind == "write":
            body |= {"body": encode_statements(self._unit(operation)), "once": self._once()}
        elif operation.kind == "stale":
            body |= {"sql": STATE, "level": "stale"}
        else:
            body |= {"sql": GET, "params": [operation.key]}

        def done(answer: Any, error: Error | None) -> None:
            if error is None and operation.kind == "write":
                operation.row = unpack_result(answer[1])[1][0][1]
                operation.log_index = answer[0]
            elif error is None:
                _show(operation, answer[1])
            if machine.life_count != operation.life:
                operation.life = -1  # nobody knows which of them answered
            self._ended(operation, error)

        remote.ask(machine, "sql.execute" if operation.kind == "write" else "sql.read", body, timeout_s, done)

    def _once(self) -> bool:
        """Most writes are tried again by their node, by their key; some, as before, never."""
        return self.rng.random() < 0.7

    def _unit(self, operation: Operation) -> list[tuple[str, tuple[Any, ...]]]:
        is_big = self._big_bytes and self.rng.random() < BIG
        filler = self.rng.randbytes(self.rng.randrange(self._big_bytes if is_big else 200))
        unit: list[tuple[str, tuple[Any, ...]]] = [
            (INSERT, (operation.client, operation.number, filler)),
            (SET, (operation.key, operation.client, operation.number)),
        ]
        if self._refused and self.rng.random() < self._refused:
            unit.append((TWICE, (operation.key,)))
        return unit

    def _connect(self, life: NodeLife, database: str, timeout_s: float) -> Connection:
        if self._connections[0] is not life:
            self._connections = (life, {})
        known = self._connections[1]
        if database not in known:
            assert life.node is not None
            known[database] = life.node.connect(database, isolation_level=None, timeout=timeout_s)
        known[database].read_level = ReadLevel.LINEARIZABLE
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


def _show(operation: Operation, rows: Any) -> None:
    if operation.kind == "stale":
        operation.state = tuple((key, client, number) for key, client, number in rows)
    else:
        operation.result = next(((client, number) for client, number in rows), None)


def create_tables(
    life: NodeLife, done: Callable[[Error | None], None], schema: tuple[str, ...] = SCHEMA
) -> None:
    """Make the databases on a thread of this process."""

    def work() -> None:
        assert life.node is not None
        with suppress(LifeEnded):
            try:
                for database in DATABASES:
                    connection = life.node.connect(database, isolation_level=None, timeout=10.0)
                    for statement in schema:
                        connection.execute(statement)
            except Error as error:
                done(error)
            else:
                done(None)

    life.spawn(work, "create-tables")


def fill(life: NodeLife, size_bytes: int, rng: random.Random, done: Callable[[Error | None], None]) -> None:
    """Make the first database so large, on a thread of this process."""

    def work() -> None:
        assert life.node is not None
        with suppress(LifeEnded):
            try:
                connection = life.node.connect(DATABASES[0], isolation_level=None, timeout=10.0)
                connection.execute("CREATE TABLE bulk(data BLOB)")
                for _ in range(size_bytes // FILL_BYTES):
                    connection.execute("INSERT INTO bulk(data) VALUES (?)", (rng.randbytes(FILL_BYTES),))
            except Error as error:
                done(error)
            else:
                done(None)

    life.spawn(work, "fill")


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
