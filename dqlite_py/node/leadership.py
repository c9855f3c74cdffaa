"""Handing leadership over, on request or before this node stops. Loop thread."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dqlite_py.errors import Error, NodeStopped, OperationalError
from dqlite_py.limits import TICK_MS
from dqlite_py.logs import event
from dqlite_py.model import NodeId
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.host import RaftHost

log = logging.getLogger("dqlite_py.node")

HAND_OVER_S = 1.5
DRAIN_S = 1.0


class Leadership:
    def __init__(self, host: RaftHost, view: ClusterView) -> None:
        self._host = host
        self._core = host.core
        self._view = view

    @property
    def is_settled(self) -> bool:
        """This node is a member and a leader is known."""
        member = self._view.configuration.get(self._core.node_id) is not None
        return member and (self._view.is_ready_leader or self._view.remote_leader is not None)

    async def wait_settled(self, deadline: Deadline, failed: Callable[[], BaseException | None]) -> None:
        """Return when `is_settled`; raises NodeStopped when the node has `failed`, OperationalError at the deadline."""
        while not self.is_settled or failed() is not None:
            why = failed()
            if why is not None:
                raise NodeStopped(f"this node has failed: {why}")
            if deadline.passed:
                raise OperationalError("no leader yet: fewer than a majority of the voters can be reached")
            await self._view.wait_change(min(0.2, deadline.left_s))

    async def transfer(self, target: NodeId | None, timeout_s: float) -> NodeId | None:
        """Hand over; the target once it (or another node) leads, None when nobody took over in time.

        Raises NotLeader, MembershipRefused.
        """
        if not self._core.is_leader:
            raise self._view.not_leader()
        chosen = self._host.transferLeadership(target)
        deadline = Deadline(timeout_s)
        while not deadline.passed:
            await self._view.wait_change(TICK_MS / 1000)
            if not self._core.is_leader and self._view.remote_leader is not None:
                return chosen
        return None

    async def drain(self) -> None:
        """Give what we proposed the time to be committed by the next leader and answered, before this node stops."""
        deadline = Deadline(DRAIN_S)
        while self._host.has_waiting and not deadline.passed:
            await self._view.wait_change(TICK_MS / 1000)

    async def hand_over(self) -> bool:
        """Give leadership to another voter; False when nobody took it."""
        try:
            return await self.transfer(None, HAND_OVER_S) is not None
        except Error as error:
            event(log, logging.INFO, "leadership was not handed over", reason=error)
            return False
