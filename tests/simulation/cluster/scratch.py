"""Clients that open, fill, read and drop databases under the same names again and again, while everything happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.command import encode_statements, encode_unit
from dqlite_py.dbapi import Connection
from dqlite_py.errors import Error, NodeStopped, Outcome, OutcomeUnknown, TransactionEnded
from dqlite_py.node.tickets import Deadline
from tests.simulation.cluster import threads
from tests.simulation.cluster.checks_scratch import ALL_MARKS, MAKE, MARK, NEWEST, SCRATCH, Asked
from tests.simulation.cluster.life import Life, LifeEnded
from tests.simulation.cluster.machine import Machine, NodeLife
from tests.simulation.cluster.remote import RemoteCaller

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

KINDS: Final = ("open", "open", "drop", "write", "write", "write", "write", "write", "read", "read")
WITH_TRANSACTIONS: Final = (  # one transacts, the others drop and make anew what it is at
    (*KINDS, *("transact",) * 8, "open"),
    (*KINDS, "drop", "drop", "drop", "open", "open"),
    ("open", "drop"),
)
TIMEOUT_S: Final = 2.0
BUSY_TIMEOUT_S: Final = 0.3
IDLE_LIMIT_S: Final = 2.0
PAUSES_S: Final = (0.0, 0.01, 0.3)  # before a statement of a transaction
FILLER_BYTES: Final = 3000


class ScratchClient:
    """One operation at a time; never repeats one. `remote`: asks by RPC, from a machine outside, in half of them."""

    def __init__(self, world: World, index: int, remote: RemoteCaller) -> None:
        self.index = index
        self.history: list[Asked] = []
        self.pending: Asked | None = None
        self._world = world
        self._remote = remote
        self._kinds = WITH_TRANSACTIONS[index] if world.scale.transactions_per_s else KINDS
        self._rng = random.Random(f"scratch {index} {world.seed}")
        self._keys = random.Random(f"scratch keys {index} {world.seed}")

    @property
    def is_idle(self) -> bool:
        return self.pending is None

    def work(self, mean_s: float, goes_on: Callable[[], bool]) -> None:
        """Operate at random times while `goes_on()`."""
        if not goes_on():
            return
        if self.is_idle:
            serving = [m for m in self._world.machines if m.serves]
            if serving:
                self.begin(
                    self._rng.choice(serving), self._rng.choice(self._kinds), self._rng.choice(SCRATCH)
                )
        self._world.scheduler.call_later(self._rng.expovariate(1 / mean_s), self.work, mean_s, goes_on)

    def begin(self, machine: Machine, kind: str, database: str) -> Asked | None:
        """Start an operation at this machine's node; None when nobody is there."""
        life, runtime = machine.life, machine.runtime
        if life is None or runtime is None or life.loop is None:
            return None
        asked = Asked(self.index, len(self.history) + 1, kind, database, machine.name)
        self.pending = asked
        self.history.append(asked)
        self._world.checks.scratch.began(asked)
        if self._rng.random() < 0.5 and kind != "transact":
            self._ask_remotely(machine, asked)
            return asked
        life.on_end.append(lambda: self._process_ended(asked))
        if kind in ("open", "drop"):
            self._ask_loop(life, asked)
        else:
            life.spawn(lambda: self._perform(life, asked), f"scratch-{self.index}")
        return asked

    # -- the three ways to ask -------------------------------------------------------------------------------

    def _ask_remotely(self, machine: Machine, asked: Asked) -> None:
        body: dict[str, Any] = {"database": asked.database, "timeout_s": TIMEOUT_S}
        method = f"sql.{asked.kind}"
        if asked.kind == "write" and self._is_repeated():
            method, body["body"] = "sql.execute", encode_statements(self._unit(asked))
        elif asked.kind == "write":
            body["unit"] = encode_unit(self._unit(asked))
        elif asked.kind == "read":
            body["sql"] = NEWEST

        def done(answer: Any, error: Error | None) -> None:
            if error is None and asked.kind == "read":
                asked.result = next((tuple(row) for row in answer[1]), None)
            self._ended(asked, error)

        self._remote.ask(machine, method, body, TIMEOUT_S, done)

    def _ask_loop(self, life: NodeLife, asked: Asked) -> None:
        async def run() -> None:
            assert life.runtime is not None
            writes, name, deadline = life.runtime.writes, asked.database, Deadline(TIMEOUT_S)
            try:
                if asked.kind == "open":
                    await writes.open_database(name, deadline)
                else:
                    await writes.on_leader(
                        "leader.drop", {"database": name}, deadline, lambda: writes.drop_here(name)
                    )
            except Error as error:
                self._ended(asked, error)
            else:
                self._ended(asked, None)

        def begin() -> None:
            assert life.loop is not None
            life.loop.create_task(run())

        life.run(begin)

    def _perform(self, life: NodeLife, asked: Asked) -> None:
        assert life.runtime is not None
        connection = Connection(
            life.runtime.gateway,
            asked.database,
            isolation_level=None,
            timeout=TIMEOUT_S,
            exactly_once=self._is_repeated(),
            busy_timeout=BUSY_TIMEOUT_S,
            idle_limit=IDLE_LIMIT_S,
        )
        try:
            if asked.kind == "read":
                row = connection.execute(NEWEST).fetchone()
                asked.result = None if row is None else (row[0], row[1])
            elif asked.kind == "transact":
                self._transact(connection, asked)
            else:
                connection.execute_atomic(self._unit(asked))
        except Error as error:
            self._told(asked, error)
        except LifeEnded:
            connection._is_closed = True  # with its process: nobody is there to be told
            raise
        else:
            self._ended(asked, None)
        if asked.kind == "transact":
            connection.close()

    def _transact(self, connection: Connection, asked: Asked) -> None:
        facts = self._world.checks.scratch
        connection.execute("BEGIN IMMEDIATE")
        facts.transacts(asked)
        for sql, params in self._unit(asked):
            threads.sleep(self._rng.choice(PAUSES_S))
            connection.execute(sql, params)
        threads.sleep(self._rng.choice(PAUSES_S))
        asked.is_committing = True
        connection.execute("COMMIT")
        self._world.coverage.hit("transaction of a scratch database")

    def _told(self, asked: Asked, error: Error) -> None:
        if asked.kind == "transact":
            if self._world.checks.scratch.is_dropped(asked):
                self._world.coverage.hit("database dropped under a transaction")
            if not asked.is_committing:  # whatever a statement says, there was no COMMIT
                error = TransactionEnded(f"before COMMIT: {type(error).__name__}: {error}")
        self._ended(asked, error)

    def _process_ended(self, asked: Asked) -> None:
        gone = "the node's process ended"
        is_open = asked.kind == "transact" and not asked.is_committing
        self._ended(asked, NodeStopped(gone) if is_open else OutcomeUnknown(gone))

    def _is_repeated(self) -> bool:
        """Most writes have a key: tried again in a later life of their database, they must have no effect."""
        return self._keys.random() < 0.7

    def _unit(self, asked: Asked) -> list[tuple[str, tuple[Any, ...]]]:
        filler = self._rng.randbytes(self._rng.randrange(FILLER_BYTES))
        return [(MAKE, ()), (MARK, (asked.client, asked.number, filler))]

    def _ended(self, asked: Asked, error: Error | None) -> None:
        if asked.outcome != "pending":
            return
        if error is None:
            asked.outcome = "acknowledged"
        else:
            asked.error = f"{type(error).__name__}: {error}"
            asked.outcome = "failed" if error.outcome is Outcome.NOT_APPLIED else "unknown"
        self.pending = None
        self._world.checks.scratch.ended(asked)


def marks_of(life: Life | None) -> dict[str, list[Any]]:
    """The scratch databases of this node, read directly."""
    assert isinstance(life, NodeLife)
    assert life.runtime is not None
    found: dict[str, list[Any]] = {}
    for name in SCRATCH:
        pool = life.runtime.applier().readers.get(name)
        if pool is not None:
            try:
                found[name] = list(pool.query(ALL_MARKS).rows)
            except Error as error:
                if "no such table" not in str(error):
                    raise
                found[name] = []
    return found
