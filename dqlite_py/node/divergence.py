"""Divergence: compare state hashes, find out by majority who is wrong, quarantine and repair. Loop thread.

A claim in the log (the leader's hash after entry i) that differs from ours starts an inquiry: this node stops
serving, asks every voter for its hash at the same index, and believes the value that a majority holds. If ours is
the odd one we are rebuilt from a snapshot of the leader; if the leader's is, it is told and checks itself. Without
a majority the node stays stopped and asks again: it never guesses (docs/decisions/0006).

A node that starts compares before it serves: files may have changed while it was down, and without writes no claim
would come. Only stale reads do not wait for it: they promise this node's state, whoever can be reached.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dqlite_py.command import StateHash
from dqlite_py.errors import DivergenceDetected, Error
from dqlite_py.logs import event
from dqlite_py.model import Configuration, NodeId
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.raft.rpc import RpcError

log = logging.getLogger("dqlite_py.divergence")

REASON = "divergence"
ASK_AGAIN_S = 0.3
COMPARE_AGAIN_S = 0.05
SPARE_COMPARES_S = 2.0  # others hardly remember a state so old, and nothing waits for it


class Divergence:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        node_id: NodeId,
        view: ClusterView,
        configuration: Callable[[], Configuration],
        local_hash: Callable[[str, int], int | None],
        states: Callable[[], Mapping[str, StateHash | None]],
        call: Callable[[NodeId, str, Any, float], Awaitable[Any]],
        repair: Callable[[list[NodeId]], None],
    ) -> None:
        self._loop = loop
        self._node_id = node_id
        self._view = view
        self._configuration = configuration
        self._local_hash = local_hash
        self._states = states  # the newest of every database
        self._call = call
        self._repair = repair
        self._inquiry: asyncio.Task[None] | None = None
        self._comparison: asyncio.Task[None] | None = None
        self.quarantined: DivergenceDetected | None = None
        self.detected_count = 0

    # -- after a start ----------------------------------------------------------------------------------------

    def compare_first(self) -> None:
        """Serve only after a majority (with us) holds the same states."""
        if self._states() and self._configuration().voters != {self._node_id}:
            self._view.is_compared = False
            self._comparison = self._loop.create_task(self._compare())

    async def _compare(self) -> None:
        left = list(self._states())
        while left:
            left = [name for name in left if not await self._holds_with_majority(name)]
            if left:
                await asyncio.sleep(SPARE_COMPARES_S if self._view.is_spare else COMPARE_AGAIN_S)
        self._compared()

    async def _holds_with_majority(self, database: str) -> bool:
        """Ask for the hash at our newest index of the database: who is behind will know it later."""
        states = self._states()
        if database not in states:
            return True  # dropped meanwhile
        ours = states[database]
        if ours is None or self.quarantined is not None:
            return False
        votes = await self._collect(database, ours.index, ours.value)
        if sum(held == ours.value for held in votes.values()) > len(self._configuration().voters) // 2:
            return True
        other = next((held for held in votes.values() if held != ours.value), None)
        if other is not None:
            self.suspect(database, StateHash(ours.index, other), ours.value)
        return False

    def _compared(self) -> None:
        self._view.is_compared = True
        self._view.changed()

    # -- claims -----------------------------------------------------------------------------------------------

    def suspect(self, database: str, claim: StateHash, ours: int) -> None:
        """A claim differs from our state: stop serving and find out who is wrong."""
        if self.quarantined is not None or (self._inquiry is not None and not self._inquiry.done()):
            return
        self.detected_count += 1
        error = DivergenceDetected(
            f"database {database}: state after log index {claim.index} is {ours:016x} here, but {claim.value:016x} by "
            "the log; this node serves nothing until a majority has decided which is right",
            database=database,
            index=claim.index,
            ours=f"{ours:016x}",
            theirs=f"{claim.value:016x}",
        )
        event(log, logging.ERROR, "this node's state is not what the log says", reason=error)
        self._view.block(REASON, lambda: error)
        self._inquiry = self._loop.create_task(self._inquire(database, claim, ours, error))

    async def _inquire(self, database: str, claim: StateHash, ours: int, error: DivergenceDetected) -> None:
        said: dict[NodeId, int] = {}
        index = claim.index
        while True:
            votes = await self._collect(database, index, ours)
            voters = self._configuration().voters
            tally = Counter(votes.values())
            value, count = tally.most_common(1)[0]
            if count > len(voters) // 2:
                if value == ours:
                    event(
                        log,
                        logging.ERROR,
                        "a majority holds our state: the leader's was wrong",
                        state_hash=f"{ours:016x}",
                        log_index=index,
                    )
                    await self._tell_others(database, index, value, votes)
                    self._view.unblock(REASON)
                else:
                    self.quarantine(error, [voter for voter, held in votes.items() if held == value])
                return
            if votes != said:
                event(
                    log,
                    logging.ERROR,
                    "no majority yet on a state",
                    database=database,
                    log_index=index,
                    votes=votes,
                )
                said = votes
            await asyncio.sleep(ASK_AGAIN_S)
            newest = self._states().get(database)
            if newest is None or newest.index < index:
                event(
                    log,
                    logging.ERROR,
                    "a database was dropped before a majority had decided on its state",
                    database=database,
                )
                self._view.unblock(REASON)
                return
            if newest.index > index:
                # A wrong page stays wrong; who restarted meanwhile remembers newer states only.
                index, ours = newest.index, newest.value

    async def _collect(self, database: str, index: int, ours: int) -> dict[NodeId, int]:
        votes: dict[NodeId, int] = {}
        voters = self._configuration().voters
        if self._node_id in voters:
            votes[self._node_id] = ours
        others = [v for v in voters if v != self._node_id]
        answers = await asyncio.gather(
            *(self._call(v, "state.hash_at", {"database": database, "index": index}, 2.0) for v in others),
            return_exceptions=True,
        )
        for voter, answer in zip(others, answers, strict=True):
            if type(answer) is int:
                votes[voter] = answer
            elif isinstance(answer, BaseException) and not isinstance(answer, (Error, RpcError)):
                raise answer
        return votes or {self._node_id: ours}

    async def _tell_others(self, database: str, index: int, value: int, votes: dict[NodeId, int]) -> None:
        for voter, held in votes.items():
            if held != value and voter != self._node_id:
                try:
                    await self._call(
                        voter, "state.suspect", {"database": database, "index": index, "hash": value}, 2.0
                    )
                except (Error, RpcError) as error:
                    event(
                        log,
                        logging.WARNING,
                        "a member could not be told that its state differs",
                        member=voter,
                        reason=error,
                    )

    def told(self, database: str, index: int, value: int) -> None:
        """Another member says that a majority holds `value`: check ourselves (never believe it outright)."""
        ours = self._local_hash(database, index)
        if ours is not None and ours != value:
            self.suspect(database, StateHash(index, value), ours)

    def quarantine(self, error: DivergenceDetected, healthy: list[NodeId]) -> None:
        """Our state is wrong: keep log and vote, serve nothing, ask for a snapshot."""
        event(log, logging.ERROR, "quarantined, to be rebuilt from a snapshot of the leader", reason=error)
        self.quarantined = error
        self._view.block(REASON, lambda: error)
        self._repair(healthy)

    def repaired(self) -> None:
        """A snapshot replaced the state."""
        if self._inquiry is not None and not self._inquiry.done():
            self._inquiry.cancel()
        if self._comparison is not None:
            self._comparison.cancel()  # what was installed was proved against the sender's hash
        self._compared()
        if self.quarantined is not None:
            event(log, logging.WARNING, "state rebuilt from a snapshot; serving again")
        self.quarantined = None
        self._view.unblock(REASON)

    async def stop(self) -> None:
        for task in (self._inquiry, self._comparison):
            if task is not None:
                task.cancel()
                await asyncio.wait([task], timeout=1.0)
