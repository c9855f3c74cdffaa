"""One change of the configuration on the leader: from what is committed, proposed, and waited for. Loop thread.

Used by membership.py and role_manager.py, under a lock of theirs: one change at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dqlite_py.errors import MembershipRefused, OutcomeUnknown
from dqlite_py.model import Configuration, LogIndex, Term
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.core import RaftCore

PROPOSE_S = 5.0  # for a change that is refused now: who asks holds a lock that others wait for


class ConfigurationChange:
    def __init__(
        self, *, core: RaftCore, view: ClusterView, pump: Callable[[], None], now_ms: Callable[[], float]
    ) -> None:
        self._core = core
        self._view = view
        self._pump = pump
        self._now_ms = now_ms

    def check_leader(self) -> None:
        if not self._view.is_ready_leader:
            raise self._view.not_leader()

    async def settled(self, deadline: Deadline) -> Configuration:
        """The configuration once it is committed: before that it may be rolled back, and no answer can rest on it.

        Raises NotLeader, MembershipRefused; nothing was proposed.
        """
        while True:
            self.check_leader()
            configuration = self._core.configuration
            if self._core.committed_configuration.index >= configuration.index:
                return configuration
            if deadline.passed:
                raise MembershipRefused("an earlier change is not committed yet: try again")
            await self._view.wait_change(0.02)

    async def carry_out(self, new: Configuration, deadline: Deadline) -> None:
        """Propose and wait until committed; retries for a moment while another change is pending.

        Raises NotLeader or MembershipRefused when nothing was proposed; OutcomeUnknown afterwards: the entry is in
        this log at least, and whoever leads next may commit it.
        """
        patience = Deadline(min(PROPOSE_S, deadline.left_s))
        while True:
            self.check_leader()
            try:
                term, index = self._core.propose_configuration(new, self._now_ms())
                break
            except MembershipRefused:
                if patience.passed:
                    raise
            await asyncio.sleep(0.02)
        self._pump()
        while not self._is_committed(new, term, index):
            if not (self._core.is_leader and self._core.term == term):
                raise OutcomeUnknown(
                    "leadership was lost before the change was committed: look at `status`",
                    log_index=int(index),
                )
            if deadline.passed:
                raise OutcomeUnknown(
                    "the change was proposed but is not committed yet: look at `status`", log_index=int(index)
                )
            await self._view.wait_change(0.02)

    def _is_committed(self, new: Configuration, term: Term, index: LogIndex) -> bool:
        committed = self._core.committed_configuration
        if committed.index == index and committed.is_same(new):
            return True
        # Only in our own term is what stands at `index` certainly ours.
        return committed.index >= index and self._core.is_leader and self._core.term == term
