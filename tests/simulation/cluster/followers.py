"""Consumers that follow the changes of a database on whatever node is up, and go on at another one, by index.

Each is a program that keeps its position: a thread of some node's process reads a stream for a while, then it goes on
elsewhere, as it must when the process ends. Where the changes behind its position are not kept any more it asks another
node, or reads the tables and starts again from there. What it is told goes to checks_streams.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dqlite_py.changes import Change
from dqlite_py.errors import ChangesCompacted, Error
from dqlite_py.gateway import LINEARIZABLE, TransactionLimits
from dqlite_py.node.change_streams import ChangeStream
from tests.simulation.cluster import threads
from tests.simulation.cluster.checks_streams import Consumer
from tests.simulation.cluster.clients import DATABASES, STATE
from tests.simulation.cluster.life import LifeEnded
from tests.simulation.cluster.machine import Machine, NodeLife

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

STAYS_S: Final = (0.1, 1.0, 4.0)  # at one node
PAUSE_S: Final = 0.2  # the longest between two nodes
SLOW: Final = 0.05  # probability of a pause after an entry
WAIT_S: Final = 0.3  # for a change
READ_TIMEOUT_S: Final = 2.0
LIMITS: Final = TransactionLimits(10.0, 10.0)
ANOTHER: Final = 0.5  # probability that it asks another node before it starts again


class Follower:
    """One consumer."""

    def __init__(self, world: World, index: int) -> None:
        self.consumer = Consumer(index, DATABASES[index % len(DATABASES)], 0)
        self.goal: int | None = None  # it is done when it was told everything up to here
        self.is_idle = True
        self._world = world
        self._rng = random.Random(f"follower {index} {world.seed}")
        self._is_new = True
        self._session = 0

    def work(self, goes_on: Callable[[], bool]) -> None:
        """Follow at one node after the other while `goes_on()`."""
        if not goes_on():
            return
        if self.is_idle:
            serving = [m for m in self._world.machines if m.serves]
            if serving:
                self.begin(self._rng.choice(serving), self._rng.choice(STAYS_S))
        self._world.scheduler.call_later(self._rng.random() * PAUSE_S, self.work, goes_on)

    def begin(self, machine: Machine, stay_s: float) -> None:
        """Follow at this machine's node for so long, on a thread of its process."""
        life = machine.life
        if life is None or not life.alive or life.node is None:
            return
        self.is_idle = False
        self._session += 1
        session, consumer = self._session, self.consumer
        if consumer.node not in ("", machine.name) and consumer.told:
            self._world.coverage.hit("changes followed at another node")
        consumer.node = machine.name
        life.on_end.append(lambda: self._ended(session))
        life.spawn(lambda: self._perform(life, session, stay_s), f"follower-{consumer.index}")

    def _ended(self, session: int) -> None:
        if session == self._session:
            self.is_idle = True

    # -- a thread of the node's process --------------------------------------------------------------------

    def _perform(self, life: NodeLife, session: int, stay_s: float) -> None:
        end = life.monotonic() + stay_s
        try:
            self._follow(life, end)
        except ChangesCompacted as error:
            self._world.coverage.hit("changes compacted")
            self._compacted(life, error)
        except Error:
            pass  # nobody was told anything
        self._ended(session)

    def _follow(self, life: NodeLife, end: float) -> None:
        consumer = self.consumer
        assert life.node is not None
        after = consumer.position
        if self._is_new and self._rng.random() < 0.7:
            stream = life.node.changes(consumer.database, timeout=WAIT_S)
            after = consumer.position = stream.position
        else:
            stream = life.node.changes(consumer.database, after=after, timeout=WAIT_S)
        self._is_new = False
        with stream:
            try:
                self._read(life, stream, end)
            except ChangesCompacted as error:
                self._world.checks.clients.streams.compacted(consumer, consumer.position, error)
                raise
            except LifeEnded:
                stream._cursor._fd = None  # it was closed with its process
                raise

    def _read(self, life: NodeLife, stream: ChangeStream, end: float) -> None:
        consumer, streams = self.consumer, self._world.checks.clients.streams
        entry: list[Change] = []
        while life.monotonic() < end and not self._is_done():
            applied = self._applied(life)
            try:
                change = next(stream)
            except TimeoutError:
                streams.reached(consumer, max(stream.position, applied))
                continue
            entry.append(change)
            if change.is_last:
                streams.told(consumer, entry)
                entry = []
                self._rest()

    def _applied(self, life: NodeLife) -> int:
        """What the node has applied of everything; a stream that waits in vain has told all of that."""
        runtime = life.runtime
        if runtime is None or runtime.failed is not None or self._world.checks.may_be_damaged(life.name):
            return 0
        return int(runtime.applier().applied_index)

    def _rest(self) -> None:
        if self.goal is None and self._rng.random() < SLOW:
            threads.sleep(self._rng.random() * 2 * WAIT_S)

    def _is_done(self) -> bool:
        return self.goal is not None and self.consumer.position >= self.goal

    def _compacted(self, life: NodeLife, error: ChangesCompacted) -> None:
        if self.goal is None and self._rng.random() < ANOTHER:
            return
        consumer, clients = self.consumer, self._world.checks.clients
        assert life.runtime is not None
        try:
            transaction = life.runtime.gateway.begin_read(
                consumer.database, LINEARIZABLE, READ_TIMEOUT_S, LIMITS
            )
            try:
                rows = transaction.query(STATE, (), READ_TIMEOUT_S).rows
            finally:
                transaction.close()
        except Error:
            return
        count = clients.stale.shown(consumer.node, consumer.database, [tuple(row) for row in rows])  # type: ignore[misc]
        clients.levels.is_at(consumer.node, consumer.database, transaction.log_index, count)
        clients.streams.starts_again(consumer, transaction.log_index, error.details["oldest"])
        self._world.coverage.hit("changes followed from the tables")
