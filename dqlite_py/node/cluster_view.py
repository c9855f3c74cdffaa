"""Who leads and whether this node may serve: the one place that writes and reads consult. Loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dqlite_py.errors import Error, NoLeader, NotLeader
from dqlite_py.model import Configuration, NodeId, Role, Term
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.core import RaftCore


class ClusterView:
    """Leadership as the node sees it, and the reasons why it must not serve.

    `ready_term`: the term for which this leader's own no-op is committed and routed: only then does it know every
    committed entry (thesis 6.4), the newest log time, and may it answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, core: RaftCore) -> None:
        self._loop = loop
        self._core = core
        self.ready_term: Term | None = None
        self.is_compared = (
            True  # False while a node that started compares its state with others: node.divergence
        )
        self.told = Configuration()  # what the leader said is committed, where our log does not hold it
        self._blocked: dict[str, Callable[[], Error]] = {}
        self._write_blocked: dict[str, Callable[[], Error]] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self.watchers: list[Callable[[], None]] = []  # told of every change

    @property
    def configuration(self) -> Configuration:
        """Who is where, as far as is known here: for addresses and requests, never for votes."""
        mine = self._core.configuration
        return self.told if self.told.index > mine.index else mine

    @property
    def is_spare(self) -> bool:
        """This node gets no log: what its databases hold only grows older. Any thread."""
        me = self.configuration.get(self._core.node_id)
        return me is not None and me.role is Role.SPARE

    @property
    def is_ready_leader(self) -> bool:
        return self._core.is_leader and self.ready_term == self._core.term

    @property
    def remote_leader(self) -> NodeId | None:
        leader = self._core.leader_id
        return None if leader is None or leader == self._core.node_id else leader

    @property
    def writing_leader(self) -> NodeId | None:
        """Who takes writes, as far as is known: this node once it is ready to, or another."""
        return self._core.node_id if self.is_ready_leader else self.remote_leader

    @property
    def takes_writes(self) -> bool:
        """True when nothing stands in the way of a write through this node's log."""
        core = self._core
        return (
            core.is_leader
            and self.ready_term == core.term
            and self.is_compared
            and not self._blocked
            and not self._write_blocked
        )

    def not_leader(self) -> NotLeader:
        """The refusal of what only the leader does, naming the leader where it is known."""
        leader = self.remote_leader
        address = self.address_of(leader)
        known = f": ask {address}" if address else ", and does not know the leader"
        return NotLeader(f"this node is not the leader{known}", leader_id=leader or 0, leader_address=address)

    def no_current_copy(self) -> NotLeader:
        """The refusal of a read here that must see what was committed: a spare would wait for it in vain."""
        leader = self.remote_leader
        address = self.address_of(leader)
        where = f" (the leader is {address})" if address else ""
        return NotLeader(
            f"this node is a spare, which gets no data: ask another member{where}, or make it a stand-by",
            leader_id=leader or 0,
            leader_address=address,
        )

    def address_of(self, node_id: NodeId | None) -> str:
        member = self.configuration.get(node_id) if node_id is not None else None
        return member.address if member is not None else ""

    def not_compared(self) -> NotLeader:
        """The refusal of a leader that started and does not know yet that its databases are sound."""
        return NotLeader(
            "this node leads, but compares its databases with the other members' first", leader_id=0
        )

    def block(self, reason: str, error: Callable[[], Error], *, writes_only: bool = False) -> None:
        """Stop serving (all, or writes only) until `unblock(reason)`; callers get `error()`."""
        (self._write_blocked if writes_only else self._blocked)[reason] = error

    def unblock(self, reason: str) -> None:
        self._blocked.pop(reason, None)
        self._write_blocked.pop(reason, None)
        self.changed()

    def refusal(self, *, write: bool) -> Error | None:
        for make in self._blocked.values():
            return make()
        if write:
            for make in self._write_blocked.values():
                return make()
        return None

    def changed(self) -> None:
        """Leadership, term or readiness changed: wake who waits for a leader."""
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)
        for watcher in self.watchers:
            watcher()

    async def wait_for_leader(self, deadline: Deadline) -> None:
        """Return when a leader may be there; raises NoLeader (nothing was sent) at the deadline."""
        while not (self.is_ready_leader or self.remote_leader is not None):
            if deadline.passed:
                raise NoLeader("no leader is known: fewer than a majority of the voters can be reached")
            await self.wait_change(min(0.5, deadline.left_s))

    async def wait_change(self, timeout_s: float) -> None:
        """Return at the next change, or after the time."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(future)
        await asyncio.wait([future], timeout=timeout_s)
        if not future.done():
            future.cancel()
            if future in self._waiters:
                self._waiters.remove(future)
