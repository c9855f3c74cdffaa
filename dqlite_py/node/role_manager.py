"""The leader keeps the roles: whoever has caught up votes, or, with settings, what raft.roles decides. Loop thread.

Decided from the configuration and the progress alone, so that any later leader goes on with it. Since when a member is
there or away is measured in this leadership only: a new leader calls nobody gone before its own patience is over. One
change at a time, by `Membership.decided`; after each the next question comes at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from dqlite_py.errors import Error, RaftInvariantBroken
from dqlite_py.logs import event
from dqlite_py.model import Configuration, Member, NodeId, Role, RoleSettings
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.membership import Membership
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.progress import PeerView, ProgressState
from dqlite_py.raft.roles import Action, Change, MemberState, Presence, Wanted, next_change

log = logging.getLogger("dqlite_py.membership")

LOOK_S: Final = 0.1
AGAIN_S: Final = 1.0  # after a change that was refused
UP_AFTER_MS: Final = 2_000.0
TELL_MS: Final = 5_000.0  # how often the log hears of a member that catches up
TRANSFER_S: Final = 1.5
# After a hand-over that nobody took, doubled each time: nothing is written during one.
TRANSFER_AGAIN_MS: Final = (1_000.0, 8_000.0)


class RoleManager:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        core: RaftCore,
        view: ClusterView,
        membership: Membership,
        now_ms: Callable[[], float],
        is_connected: Callable[[NodeId], bool],
        transfer: Callable[[NodeId | None, float], Awaitable[NodeId | None]],
    ) -> None:
        self._loop = loop
        self._core = core
        self._view = view
        self._membership = membership
        self._now_ms = now_ms
        self._is_connected = is_connected
        self._transfer = transfer
        self._task: asyncio.Task[None] | None = None
        self._since: dict[NodeId, tuple[bool, float]] = {}  # reachable or not, since when
        self._told_ms = 0.0
        self._transfer_after_ms = 0.0
        self._transfer_pause_ms = TRANSFER_AGAIN_MS[0]
        self.decision = ""  # the last one, and why; "" where nothing is decided
        self._last: tuple[str, float] | None = None  # what was done last in this leadership, and when

    def start(self) -> None:
        """We became the leader: keep the roles until we are not."""
        if self._task is None or self._task.done():
            self._begin()
            self._task = self._loop.create_task(self._keep())

    def _begin(self) -> None:
        """Another leadership: what was measured is of before."""
        self._since.clear()
        self._transfer_after_ms, self._transfer_pause_ms = 0.0, TRANSFER_AGAIN_MS[0]

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)

    async def _keep(self) -> None:
        term = self._core.term
        while self._core.is_leader:
            if self._core.term != term:
                term = self._core.term
                self._begin()
            self._look()
            pause = LOOK_S
            if self._view.is_ready_leader and not self._membership.lock.locked():
                try:
                    if await self._one():
                        pause = 0.0
                except RaftInvariantBroken:
                    raise
                except Error as error:
                    self.decision = f"{self.decision}; refused: {error.message}"
                    event(log, logging.DEBUG, "role change postponed", reason=error)
                    pause = AGAIN_S
            await asyncio.sleep(pause)
        self.decision, self._last = "", None

    # -- what is seen -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._membership.look()
        now = self._now_ms()
        members = self._core.configuration.members
        for member in members:
            reachable = self._reaches(member.id, now)
            known = self._since.get(member.id)
            if known is None or known[0] != reachable:
                self._since[member.id] = (reachable, now)
        for gone in self._since.keys() - {member.id for member in members}:
            del self._since[gone]
        if now - self._told_ms >= TELL_MS:
            self._told_ms = now
            self._tell_of_learners()

    def _reaches(self, node_id: NodeId, now: float) -> bool:
        if node_id == self._core.node_id:
            return True
        peer = self._core.peers.get(node_id)
        patience = self._core.settings.election_max_ms
        return (
            peer is not None
            and peer.state is not ProgressState.LOST_DATA  # no quorum counts it: as good as away
            and self._is_connected(node_id)
            and now - peer.last_reply_ms <= patience
        )

    def _presence(self, node_id: NodeId, gone_after_ms: int) -> Presence:
        reachable, since = self._since.get(node_id, (False, self._now_ms()))
        lasted = self._now_ms() - since
        if node_id == self._core.node_id:
            return Presence.UP
        if reachable:
            return Presence.UP if lasted >= UP_AFTER_MS else Presence.BACK
        return Presence.GONE if lasted >= gone_after_ms else Presence.AWAY

    def state_of(self, member: Member, settings: RoleSettings) -> MemberState:
        peer = self._core.peers.get(member.id)
        is_self = member.id == self._core.node_id
        leaving = self._membership.leaving.get(member.id)
        # A spare's databases need not be trusted: as a stand-by it gets them anew.
        needs_snapshot = peer is None or (peer.needs_snapshot and member.role is not Role.SPARE)
        return MemberState(
            member.id,
            member.role,
            self._presence(member.id, settings.gone_after_ms),
            is_fit=is_self or not needs_snapshot,
            is_caught_up=is_self or self._membership.is_caught_up(member.id),
            is_leaving=leaving is not None and not leaving.passed,
            weight=member.weight,
            domain=member.domain,
        )

    def next_change(self, configuration: Configuration) -> Change | None:
        """What there is to do; None: nothing is decided here."""
        settings = configuration.settings
        if settings is None:
            for member in configuration.members:
                if member.role is Role.STANDBY and self._membership.is_caught_up(member.id):
                    return Change(Action.ASSIGN, member.id, Role.VOTER, "it has caught up")
            return None
        if not settings.automatic or self._core.node_id not in configuration.voters:
            return None
        members = [self.state_of(member, settings) for member in configuration.members]
        return next_change(members, self._core.node_id, Wanted(settings.voters, settings.standbys))

    # -- what is done -----------------------------------------------------------------------------------------

    async def _one(self) -> bool:
        """Carry out one change; True when there may be another."""
        configuration = self._core.configuration
        if configuration.index != self._core.committed_configuration.index:
            return False
        change = self.next_change(configuration)
        self.decision = "" if change is None else change.reason
        if change is None or change.action is Action.NOTHING:
            return False
        if change.action is Action.TRANSFER:
            await self._hand_over(change)
            return False
        assert change.role is not None
        if not await self._membership.decided(configuration, change.member, change.role):
            return True  # the configuration is another one by now
        done = f"{change.member} becomes {change.role.name.lower()}: {change.reason}"
        self._last = (done, self._now_ms())
        event(
            log,
            logging.INFO,
            "role changed automatically",
            member=change.member,
            role=change.role.name.lower(),
            reason=change.reason,
        )
        return True

    async def _hand_over(self, change: Change) -> None:
        if self._now_ms() < self._transfer_after_ms:
            return
        event(
            log,
            logging.INFO,
            "leadership goes to another member",
            member=change.member,
            reason=change.reason,
        )
        try:
            await self._transfer(change.member, TRANSFER_S)
            self._last = (f"leadership offered to {change.member}: {change.reason}", self._now_ms())
        finally:
            self._transfer_after_ms = self._now_ms() + self._transfer_pause_ms
            self._transfer_pause_ms = min(2 * self._transfer_pause_ms, TRANSFER_AGAIN_MS[1])

    # -- what is told -----------------------------------------------------------------------------------------

    def catch_up(self, peer: PeerView) -> dict[str, Any]:
        """How far a member that gets the log is, of what the leader has."""
        target = int(self._core.last_index)
        return {
            "match": int(peer.match_index),
            "target": target,
            "percent": 100 if target == 0 else min(100, 100 * int(peer.match_index) // target),
        }

    def member_status(self, node_id: NodeId) -> dict[str, Any]:
        """For `status`; empty where this node does not lead."""
        if not self._core.is_leader:
            return {}
        reachable, since = self._since.get(node_id, (False, self._now_ms()))
        found: dict[str, Any] = {"reachable": reachable, "since_s": round((self._now_ms() - since) / 1000, 1)}
        peer = self._core.peers.get(node_id)
        if peer is not None:
            found["catch_up"] = self.catch_up(peer)
        return found

    def status(self) -> dict[str, Any]:
        settings = self._core.configuration.settings
        found: dict[str, Any] = {"decision": self.decision}
        if self._last is not None:
            text, at_ms = self._last
            found["last"] = {"text": text, "age_s": round((self._now_ms() - at_ms) / 1000, 1)}
        if settings is not None:
            found |= {
                "automatic": settings.automatic,
                "voters": settings.voters,
                "standbys": settings.standbys,
                "gone_after_ms": settings.gone_after_ms,
            }
        return found

    def _tell_of_learners(self) -> None:
        for member in self._core.configuration.members:
            peer = self._core.peers.get(member.id)
            if member.role is not Role.STANDBY or peer is None or self._membership.is_caught_up(member.id):
                continue
            done = self.catch_up(peer)
            event(log, logging.INFO, "member catches up", member=member.id, state=peer.state.value, **done)
