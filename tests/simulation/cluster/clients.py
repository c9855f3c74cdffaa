"""Clients of a simulated cluster: threads of the embedding server, using the public DB-API of whatever node is up.

Each client has one operation under way at a time and never repeats one. A write is one tagged unit (checks_clients), a
read reads a register linearizably. What became of an operation is told to the checks: acknowledged, certainly failed,
or unknown.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dqlite_py.dbapi import Connection
from dqlite_py.errors import Error, NodeStopped, Outcome, OutcomeUnknown
from tests.simulation.cluster.checks import Checks
from tests.simulation.cluster.checks_clients import (
    READ_OPS,
    READ_REGISTER,
    SCHEMA,
    OpId,
    ReadMark,
    RegisterValue,
    tagged_unit,
)
from tests.simulation.cluster.life import LifeEnded
from tests.simulation.cluster.machine import Machine, NodeLife

DATABASE = "sim"
REGISTERS = ("a", "b", "c", "d")


@dataclass(slots=True)
class Operation:
    """`kind`: write or read. `result` of a read: the register's value, None for none."""

    client: int
    number: int
    kind: str
    register: str
    node: str
    began: float
    ended: float = -1.0
    outcome: str = "pending"  # acknowledged, failed, unknown
    error: BaseException | None = None
    result: RegisterValue | None = None

    @property
    def id(self) -> OpId:
        return self.client, self.number


class Client:
    """One client. `now`: simulated time."""

    def __init__(self, index: int, rng: random.Random, checks: Checks, now: Callable[[], float]) -> None:
        self.index = index
        self.rng = rng
        self.number = 0
        self.pending: Operation | None = None
        self.history: list[Operation] = []
        self.acknowledged_count = 0
        self._checks = checks
        self._now = now
        self._connection: tuple[NodeLife, Connection] | None = None

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
            self.rng.choice(REGISTERS),
            machine.name,
            self._now(),
        )
        self.pending = operation
        self.history.append(operation)
        mark = self._checks.read_begins(self.index, operation.register) if read else None
        life.on_end.append(lambda: self._ended(operation, OutcomeUnknown("the node's process ended"), mark))
        life.spawn(lambda: self._perform(life, operation, mark, timeout_s), f"client-{self.index}")

    def _perform(self, life: NodeLife, operation: Operation, mark: ReadMark | None, timeout_s: float) -> None:
        try:
            connection = self._connect(life, timeout_s)
        except Error as error:
            # Whatever became of opening the database, our unit was not sent.
            self._ended(operation, NodeStopped(f"not connected: {error}"), mark)
            return
        try:
            if operation.kind == "read":
                row = connection.execute(READ_REGISTER, (operation.register,)).fetchone()
                operation.result = None if row is None else (row[0], row[1], row[2])
            else:
                filler = bytes(self.rng.randrange(0, 200))
                connection.execute_atomic(tagged_unit(operation.id, operation.register, filler))
        except Error as error:
            self._ended(operation, error, mark)
        else:
            self._ended(operation, None, mark)

    def _connect(self, life: NodeLife, timeout_s: float) -> Connection:
        known = self._connection
        if known is not None and known[0] is life:
            return known[1]
        assert life.node is not None
        connection = life.node.connect(DATABASE, timeout=timeout_s)
        self._connection = (life, connection)
        return connection

    def _ended(self, operation: Operation, error: Error | None, mark: ReadMark | None) -> None:
        if operation.outcome != "pending":
            return
        operation.error, operation.ended = error, self._now()
        if error is None:
            operation.outcome = "acknowledged"
            self.acknowledged_count += 1
        else:
            operation.outcome = "failed" if error.outcome is Outcome.NOT_APPLIED else "unknown"
        self.pending = None
        if mark is None:
            if error is None:
                self._checks.client_acked(operation.id)
            else:
                self._checks.client_failed(operation.id, error)
        elif error is None:
            self._checks.read_ends(mark, operation.result)


def create_tables(life: NodeLife, done: Callable[[Error | None], None]) -> None:
    """Make the database on a thread of this process."""

    def work() -> None:
        assert life.node is not None
        with suppress(LifeEnded):
            try:
                connection = life.node.connect(DATABASE, timeout=10.0)
                for statement in SCHEMA:
                    connection.execute(statement)
            except Error as error:
                done(error)
            else:
                done(None)

    life.spawn(work, "create-tables")


def operations_at(life: NodeLife) -> list[OpId]:
    """What this node's database holds now, read directly (no thread, no consensus)."""
    runtime = life.runtime
    assert runtime is not None
    pool = runtime.applier().readers.get(DATABASE)
    return [] if pool is None else [(row[0], row[1]) for row in pool.query(READ_OPS).rows]
