"""Clients that read at every level, on whatever node is up, and hand the tokens of sessions to each other.

One read at a time per client, in a node's process or from outside by RPC; what it shows goes to checks_reads. Some are
read transactions that ask twice. Their random numbers are their own, so that worlds without them are what they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.errors import Error, NodeStopped, TooStale
from dqlite_py.gateway import Freshness, ReadLevel, TransactionLimits
from tests.simulation.cluster import threads
from tests.simulation.cluster.checks_reads import LevelRead, Token
from tests.simulation.cluster.clients import DATABASES, STATE
from tests.simulation.cluster.machine import Machine, NodeLife
from tests.simulation.cluster.remote import RemoteCaller

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

LEVELS: Final = (
    (ReadLevel.LEADER,) * 4 + (ReadLevel.SESSION,) * 3 + (ReadLevel.STALE,) * 3 + (ReadLevel.LINEARIZABLE,)
)
BOUNDS_S: Final = (0.05, 0.5, 1.0, 1.5, 3.0)
TIMEOUTS_S: Final = (0.05, 0.3, 1.0)
FROZEN: Final = 0.15  # share of read transactions
FROZEN_S: Final = 0.1  # the longest pause in one
LIMITS: Final = TransactionLimits(10.0, 10.0)
TOKENS: Final = 3
HANDED: Final = 0.5  # probability that a session takes over the token of somebody's write


class Tokens:
    """The sessions of a world: whoever takes one has it alone."""

    def __init__(self) -> None:
        self.idle = {database: [Token() for _ in range(TOKENS)] for database in DATABASES}


class LevelReader:
    """One read at a time. `remote`: asks by RPC, from a machine outside."""

    def __init__(self, world: World, index: int, tokens: Tokens, remote: RemoteCaller | None = None) -> None:
        self.index = index
        self.history: list[LevelRead] = []
        self.pending: LevelRead | None = None
        self._world = world
        self._tokens = tokens
        self._remote = remote
        self._rng = random.Random(f"levels {index} {world.seed}")

    @property
    def is_idle(self) -> bool:
        return self.pending is None

    def work(self, mean_s: float, goes_on: Callable[[], bool]) -> None:
        """Read at random times while `goes_on()`."""
        if not goes_on():
            return
        if self.is_idle:
            serving = [m for m in self._world.machines if m.serves]
            if serving:
                self.begin(self._rng.choice(serving), self._rng.choice(LEVELS))
        self._world.scheduler.call_later(self._rng.expovariate(1 / mean_s), self.work, mean_s, goes_on)

    def begin(self, machine: Machine, level: ReadLevel) -> LevelRead | None:
        """Start one at this machine's node; None when nobody is there, or no session is idle."""
        life = machine.life
        if life is None or not life.alive or life.runtime is None:
            return None
        database, rng = self._rng.choice(DATABASES), self._rng
        token = None
        if level is ReadLevel.SESSION:
            idle = self._tokens.idle[database]
            if not idle:
                return None
            token = self._handed(database, idle.pop(rng.randrange(len(idle))), machine)
        read = LevelRead(
            self.index,
            len(self.history) + 1,
            level,
            database,
            machine.name,
            self._world.scheduler.now,
            rng.choice(TIMEOUTS_S),
            rng.choice(BOUNDS_S) if level is ReadLevel.STALE else None,
            token,
            self._remote is None and rng.random() < FROZEN,
        )
        self.pending = read
        self.history.append(read)
        self._world.checks.clients.levels.began(read)
        freshness = Freshness(level, 0 if token is None else token.log_index, read.bound_s)
        if self._remote is not None:
            self._ask(self._remote, machine, read, freshness)
            return read
        life.on_end.append(lambda: self._ended(read, [], NodeStopped("the node's process ended")))
        life.spawn(lambda: self._perform(life, read, freshness), f"levels-{self.index}")
        return read

    def _handed(self, database: str, token: Token, machine: Machine) -> Token:
        newest = self._world.checks.clients.levels.newest_write.get(database)
        if newest is not None and newest[0] > token.log_index and self._rng.random() < HANDED:
            token.log_index, token.count = newest[0], max(newest[1], token.count)
        if token.node not in ("", machine.name):
            self._world.coverage.hit("session goes on at another node")
        return token

    # -- the two ways to ask ---------------------------------------------------------------------------------

    def _perform(self, life: NodeLife, read: LevelRead, freshness: Freshness) -> None:
        assert life.runtime is not None
        gateway = life.runtime.gateway
        try:
            if read.is_frozen:
                states = self._frozen(gateway, read, freshness)
            else:
                found = gateway.query(read.database, STATE, (), freshness, read.timeout_s)
                read.log_index = found.log_index
                states = [found.rows]
        except Error as error:
            self._ended(read, [], error)
        else:
            self._ended(read, states, None)

    def _frozen(self, gateway: Any, read: LevelRead, freshness: Freshness) -> list[Sequence[Any]]:
        transaction = gateway.begin_read(read.database, freshness, read.timeout_s, LIMITS)
        try:
            read.log_index = transaction.log_index
            if read.token is not None:  # what came between may have been for other databases
                read.log_index = max(read.log_index, read.token.log_index)
            states = [transaction.query(STATE, (), TIMEOUTS_S[-1]).rows]
            threads.sleep(self._rng.random() * FROZEN_S)
            states.append(transaction.query(STATE, (), TIMEOUTS_S[-1]).rows)
        finally:
            transaction.close()
        return states

    def _ask(self, remote: RemoteCaller, machine: Machine, read: LevelRead, freshness: Freshness) -> None:
        body: dict[str, Any] = {
            "id": self._rng.randbytes(16),
            "database": read.database,
            "sql": STATE,
            "timeout_s": read.timeout_s,
            "level": read.level.value,
            "log_index": freshness.log_index,
            "max_staleness_s": read.bound_s,
        }

        def done(answer: Any, error: Error | None) -> None:
            if error is None:
                read.log_index = answer[3]
            self._ended(read, [answer[2]] if error is None else [], error)

        remote.ask(machine, "sql.query", body, read.timeout_s, done)

    # -- what became of it -----------------------------------------------------------------------------------

    def _ended(self, read: LevelRead, states: Sequence[Sequence[Any]], error: Error | None) -> None:
        if read.outcome != "pending":
            return
        self.pending = None
        world = self._world
        read.outcome = "answered" if error is None else "failed"
        if read.token is not None:
            self._tokens.idle[read.database].append(read.token)
        if error is not None:
            read.error = f"{type(error).__name__}: {error}"
            if isinstance(error, TooStale):
                world.coverage.hit("read too stale")
            return
        if world.checks.may_be_damaged(read.node) and read.level in (ReadLevel.SESSION, ReadLevel.STALE):
            return  # what it showed proves nothing
        read.is_judged = not self._is_excused(read)
        world.checks.clients.levels.ended(
            read, world.scheduler.now, [[tuple(row) for row in rows] for rows in states]
        )

    def _is_excused(self, read: LevelRead) -> bool:
        since = self._world.freshness.excused_since(read.node)
        return read.bound_s is not None and since >= read.began - 2 * read.bound_s - 0.1
