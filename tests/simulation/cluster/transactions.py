"""Clients that run interactive transactions on whatever node is up, while everything happens.

One transaction at a time, never repeated: a read, a write that depends on it, sometimes a savepoint that is rolled
back, sometimes a pause, then COMMIT or ROLLBACK (checks_transactions.py). A COMMIT of unknown outcome is
often asked for again by its key. Their random numbers are their own, so that worlds without them are what they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.dbapi import Connection
from dqlite_py.errors import (
    DatabaseLocked,
    Error,
    InterfaceError,
    NodeStopped,
    Outcome,
    OutcomeUnknown,
    ProgrammingError,
    SnapshotConflict,
    TransactionEnded,
)
from tests.simulation.cluster import threads
from tests.simulation.cluster.checks_transactions import (
    ADD,
    ADDED,
    ALL_COUNTERS,
    ALL_STEPS,
    READ,
    STEP,
    STORE,
    UNDONE,
    Transacted,
)
from tests.simulation.cluster.clients import DATABASES
from tests.simulation.cluster.life import LifeEnded
from tests.simulation.cluster.machine import Machine, NodeLife

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

KINDS: Final = ("immediate",) * 5 + ("deferred",) * 3 + ("unit",) * 2
COUNTERS: Final = 2  # of each database: few, so that many meet
TIMEOUT_S: Final = 2.0
BUSY_TIMEOUTS_S: Final = (0.02, 0.3, 1.0)
IDLE_LIMIT_S: Final = 0.5
PAUSE: Final = 0.3  # probability of a pause before a statement
PAUSES_S: Final = (0.01, 0.05, 0.2)
LONG_PAUSE: Final = 0.03  # probability of one over the idle limit
SAVEPOINT: Final = 0.3
ROLLBACK: Final = 0.15


class TransactionClient:
    """One transaction at a time. `index` is no other client's."""

    def __init__(self, world: World, index: int) -> None:
        self.index = index
        self.history: list[Transacted] = []
        self.pending: Transacted | None = None
        self._world = world
        self._rng = random.Random(f"transactions {index} {world.seed}")

    @property
    def is_idle(self) -> bool:
        return self.pending is None

    def work(self, mean_s: float, goes_on: Callable[[], bool]) -> None:
        """Run transactions at random times while `goes_on()`."""
        if not goes_on():
            return
        if self.is_idle:
            serving = [m for m in self._world.machines if m.serves]
            if serving:
                self.begin(self._rng.choice(serving), self._rng.choice(KINDS))
        self._world.scheduler.call_later(self._rng.expovariate(1 / mean_s), self.work, mean_s, goes_on)

    def begin(self, machine: Machine, kind: str, *, is_plain: bool = False) -> Transacted | None:
        """Start one at this machine's node; None when nobody is there. `is_plain`: no pause, and it commits."""
        life = machine.life
        if life is None or not life.alive or life.runtime is None:
            return None
        transacted = Transacted(
            self.index,
            len(self.history) + 1,
            kind,
            self._rng.choice(DATABASES),
            self._rng.randrange(COUNTERS),
            machine.name,
        )
        self.pending = transacted
        self.history.append(transacted)
        self._world.checks.transactions.began(transacted)
        life.on_end.append(lambda: self._process_ended(transacted))
        life.spawn(lambda: self._perform(life, transacted, is_plain), f"transactions-{self.index}")
        return transacted

    # -- a thread of the node's process --------------------------------------------------------------------

    def _perform(self, life: NodeLife, transacted: Transacted, is_plain: bool) -> None:
        assert life.runtime is not None
        connection = Connection(
            life.runtime.gateway,
            transacted.database,
            isolation_level=None,
            timeout=TIMEOUT_S,
            busy_timeout=TIMEOUT_S if is_plain else self._rng.choice(BUSY_TIMEOUTS_S),
            idle_limit=IDLE_LIMIT_S,
        )
        try:
            if transacted.kind == "unit":
                self._add(connection, transacted)
            else:
                self._transact(connection, transacted, is_plain)
        except (InterfaceError, ProgrammingError):
            raise  # a mistake, here or in the product
        except Error as error:
            self._told(connection, transacted, error)
        except LifeEnded:
            connection._is_closed = True  # with its process: nobody is there to be told
            raise
        else:
            self._ended(transacted, None)
        connection.close()

    def _add(self, connection: Connection, transacted: Transacted) -> None:
        transacted.is_committing = True
        client, number, key = transacted.client, transacted.number, transacted.key
        connection.execute_atomic([(ADD, (key,)), (ADDED, (client, number, key))])

    def _transact(self, connection: Connection, transacted: Transacted, is_plain: bool) -> None:
        rng = self._rng

        def execute(sql: str, params: tuple[Any, ...] = ()) -> list[Any]:
            if not is_plain and rng.random() < PAUSE:
                is_long = rng.random() < LONG_PAUSE / PAUSE
                threads.Event().wait(IDLE_LIMIT_S * 1.5 if is_long else rng.choice(PAUSES_S))
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if sql == READ else []

        client, number, key = transacted.client, transacted.number, transacted.key
        execute("BEGIN IMMEDIATE" if transacted.kind == "immediate" else "BEGIN")
        if rng.random() < SAVEPOINT and transacted.kind == "deferred":
            execute("SAVEPOINT outer")
        row = execute(READ, (key,))
        seen = row[0][0] if row else 0
        self._world.checks.transactions.read(transacted, seen)
        if rng.random() < SAVEPOINT:
            execute("SAVEPOINT undone")
            execute(UNDONE, (client, number, key))
            if rng.random() < 0.5:
                execute(STORE, (key, -1))
            execute("ROLLBACK TO undone")
            if rng.random() < 0.5:
                execute("RELEASE undone")
        execute(STEP, (client, number, key, seen, seen + 1))
        execute(STORE, (key, seen + 1))
        if rng.random() < ROLLBACK and not is_plain:
            execute("ROLLBACK")
            raise TransactionEnded("the client has rolled it back")
        transacted.is_committing = True
        execute("COMMIT")
        self._world.coverage.hit("transaction committed")

    # -- what became of it ---------------------------------------------------------------------------------

    def _told(self, connection: Connection, transacted: Transacted, error: Error) -> None:
        self._note(error)
        if not transacted.is_committing:
            # Whatever a statement says, there was no COMMIT.
            self._ended(transacted, TransactionEnded(f"before COMMIT: {type(error).__name__}: {error}"))
        elif error.outcome is Outcome.UNKNOWN and "session" in error.details and self._rng.random() < 0.5:
            self._ask(connection, transacted, error)
        else:
            self._ended(transacted, error)

    def _ask(self, connection: Connection, transacted: Transacted, error: Error) -> None:
        try:
            connection.resolve(error)
        except Error as answer:
            self._ended(transacted, answer)
        else:
            self._world.coverage.hit("unknown commit found")
            self._ended(transacted, None)

    def _note(self, error: Error) -> None:
        hit, text = self._world.coverage.hit, str(error)
        if isinstance(error, DatabaseLocked):
            hit("transaction not begun in time")
        elif isinstance(error, SnapshotConflict):
            hit("snapshot conflict")
        elif isinstance(error, TransactionEnded) and "leader" in text:
            hit("transaction lost with its leader")
        elif isinstance(error, TransactionEnded) and "idle" in text:
            hit("transaction idle too long")

    def _process_ended(self, transacted: Transacted) -> None:
        gone = "the node's process ended"
        self._ended(transacted, OutcomeUnknown(gone) if transacted.is_committing else NodeStopped(gone))

    def _ended(self, transacted: Transacted, error: Error | None) -> None:
        if transacted.outcome != "pending":
            return
        if error is None or error.outcome is Outcome.APPLIED:
            transacted.outcome = "acknowledged"
        else:
            transacted.error = f"{type(error).__name__}: {error}"
            transacted.outcome = "failed" if error.outcome is Outcome.NOT_APPLIED else "unknown"
        self.pending = None
        self._world.checks.transactions.ended(transacted)


def check_tables(world: World, machine: Machine) -> None:
    """Compare this node's tables, read directly, with what the log says."""
    life = machine.life
    assert isinstance(life, NodeLife)
    assert life.runtime is not None
    for database in DATABASES:
        pool = life.runtime.applier().readers[database]
        world.checks.transactions.final(
            machine.name,
            database,
            [tuple(row) for row in pool.query(ALL_STEPS).rows],  # type: ignore[misc]
            dict(pool.query(ALL_COUNTERS).rows),  # type: ignore[arg-type]
        )
