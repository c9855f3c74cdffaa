"""Members: join, promotion of the caught-up, removal. Runs on the leader; loop thread.

A joining node is a stand-by first and becomes a voter when its log has caught up, so a new node never weakens the
quorum (thesis 4.2.1); role_manager.py sees to that. One change at a time; each waits until it is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dqlite_py.errors import MemberRefused, MembershipRefused
from dqlite_py.limits import MEMBERS_MAX
from dqlite_py.logs import event
from dqlite_py.model import Address, Configuration, Member, NodeId, Role, RoleSettings
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.configuration_change import ConfigurationChange
from dqlite_py.node.formats import Call, check_members_read
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.progress import ProgressState

log = logging.getLogger("dqlite_py.membership")

CAUGHT_UP_ENTRIES = 256
STEADY_MS = (
    2_000.0  # a member that was far behind has much to apply yet: as a voter it would hold up the writers
)
QUORUM_WAIT_S = (
    2.0  # for the next answers, and connections that are just being made, before a change is refused
)
DECIDED_S = 5.0
LEAVING_S = 60.0
REPLACE_S = 5.0  # for somebody to take over the vote of a member that is removed


class Membership:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        core: RaftCore,
        view: ClusterView,
        pump: Callable[[], None],
        now_ms: Callable[[], float],
        is_connected: Callable[[NodeId], bool],
        hand_over: Callable[[], Awaitable[bool]],
        call: Call,
    ) -> None:
        self._loop = loop
        self._core = core
        self._view = view
        self._now_ms = now_ms
        self.changes = ConfigurationChange(core=core, view=view, pump=pump, now_ms=now_ms)
        self._is_connected = is_connected
        self._hand_over = hand_over
        self._call = call
        self.leaving: dict[NodeId, Deadline] = {}  # members that asked to be relieved of their roles
        self._behind_ms: dict[NodeId, float] = {}  # when a member was last seen far behind
        self.lock = asyncio.Lock()

    # -- requests -----------------------------------------------------------------------------------------

    async def join(
        self,
        node_id: NodeId,
        address: Address,
        deadline: Deadline,
        role: Role = Role.STANDBY,
        check: Callable[[], None] = lambda: None,
    ) -> Configuration:
        """Add a stand-by or a spare; idempotent. Raises NotLeader, MemberRefused, MembershipRefused.

        check: called when no other change can come between; raises what keeps the node out.
        """
        if role is Role.VOTER:
            raise MembershipRefused(
                "a new member must catch up before it votes: add it as a stand-by or a spare"
            )
        async with self.lock:
            configuration = await self.changes.settled(deadline)
            check()
            known = configuration.get(node_id)
            if known is not None and known.address == address:
                return configuration
            for member in configuration.members:
                if member.address == address and member.id != node_id:
                    raise MemberRefused(
                        f"address {address} belongs to member {member.id}, but the joining node is {node_id}: its data "
                        f"folder is new or was wiped, so it cannot take the old member's place. Remove the old one "
                        f"first (dqlite-py cluster remove {member.id}), then join again",
                        member_id=member.id,
                    )
            if known is None and len(configuration.members) >= MEMBERS_MAX:
                raise MembershipRefused(f"a cluster has at most {MEMBERS_MAX} members")
            member = Member(node_id, address, role) if known is None else replace(known, address=address)
            await self.changes.carry_out(configuration.with_member(member), deadline)
            event(
                log,
                logging.INFO,
                "member joined",
                member=node_id,
                address=address,
                role=member.role.name.lower(),
            )
            return self._core.configuration

    async def remove(self, node_id: NodeId, deadline: Deadline) -> Configuration:
        """Remove a member; refused when the remaining voters would have no quorum.

        Asked to remove itself, the leader hands over first and raises NotLeader: the next leader removes it.
        """
        await self._leave_leadership(node_id)
        await self._replace_first(node_id, Deadline(min(REPLACE_S, deadline.left_s / 2)))
        async with self.lock:
            configuration = await self.changes.settled(deadline)
            member = self._member(configuration, node_id)
            remaining = configuration.without(node_id)
            if member.role is Role.VOTER:
                await self._check_quorum_without(
                    node_id, remaining, Deadline(min(QUORUM_WAIT_S, deadline.left_s))
                )
            await self.changes.carry_out(remaining, deadline)
            self.leaving.pop(node_id, None)
            event(log, logging.INFO, "member was removed", member=node_id, address=member.address)
            return self._core.configuration

    async def assign(self, node_id: NodeId, role: Role, deadline: Deadline) -> Configuration:
        """Give a member a role; nothing to do when it has it. Waits, at most until the deadline, for who is to vote.

        Asked to demote itself, the leader hands over first and raises NotLeader. Raises MembershipRefused with the
        reason: a member that would vote and has not caught up in time is a stand-by by then.
        """
        member = self._member(self._core.configuration, node_id)
        if role is Role.STANDBY and self._core.configuration.settings is None:
            # Without settings whoever has caught up gets a vote. What is refused must not change the settings, either.
            self.changes.check_leader()
            if member.role is Role.VOTER:
                new = self._core.configuration.with_member(replace(member, role=role))
                await self._check_quorum_without(
                    node_id, new, Deadline(min(QUORUM_WAIT_S, deadline.left_s)), "a vote"
                )
            await self.set_roles(RoleSettings(automatic=False), deadline)
        if role is not Role.VOTER and member.role is Role.VOTER:
            await self._leave_leadership(node_id)
        if role is Role.VOTER and member.role is Role.SPARE:
            await self._assign_now(node_id, Role.STANDBY, deadline)
        while True:
            if role is Role.VOTER:
                await self._wait_caught_up(node_id, deadline)
            try:
                return await self._assign_now(node_id, role, deadline)
            except MembershipRefused:
                if role is not Role.VOTER or deadline.passed:
                    raise  # else it was lost from sight meanwhile: wait again, without the lock

    async def _assign_now(self, node_id: NodeId, role: Role, deadline: Deadline) -> Configuration:
        async with self.lock:
            configuration = await self.changes.settled(deadline)
            member = self._member(configuration, node_id)
            if member.role is role:
                return configuration
            new = configuration.with_member(replace(member, role=role))
            if member.role is Role.VOTER:
                await self._check_quorum_without(
                    node_id, new, Deadline(min(QUORUM_WAIT_S, deadline.left_s)), "a vote"
                )
            await self.changes.carry_out(new, deadline)
            event(
                log,
                logging.INFO,
                "member has a new role",
                member=node_id,
                address=member.address,
                role=role.name.lower(),
            )
            return self._core.configuration

    async def leave(self, node_id: NodeId, deadline: Deadline, *, asks_again_s: float = 0.0) -> Configuration:
        """Relieve a member of its role and of leadership, before its node is stopped for long or removed.

        Where roles are kept automatically somebody else has its vote first; it stays a spare for LEAVING_S. Asked for
        itself, the leader raises NotLeader once another one leads. Raises MembershipRefused when it cannot be replaced
        in time. asks_again_s: for so long whoever asked will ask again then, and replacing it goes on meanwhile.
        """
        self.changes.check_leader()
        settings = self._core.configuration.settings
        if settings is None or not settings.automatic:
            return await self.assign(node_id, Role.SPARE, deadline)
        self._member(self._core.configuration, node_id)
        self.leaving[node_id] = Deadline(max(LEAVING_S, deadline.left_s))
        while True:
            self.changes.check_leader()
            member = self._member(self._core.configuration, node_id)
            if member.role is not Role.VOTER and await self.changes.settled(deadline):
                return self._core.configuration
            if deadline.passed:
                if asks_again_s > 0:
                    # Else who is to take over were one too many until then, and would have to catch up anew.
                    self.leaving[node_id] = Deadline(min(asks_again_s, LEAVING_S))
                else:
                    self.leaving.pop(node_id, None)  # asked for twice, it may be gone
                raise MembershipRefused(
                    f"member {node_id} keeps its vote: no other member could take it over in time (a stand-by that has "
                    "caught up, or a spare, is needed)"
                )
            await self._view.wait_change(0.05)

    async def _replace_first(self, node_id: NodeId, deadline: Deadline) -> None:
        """Before a voter is removed somebody else has its vote; where nobody can, the removal goes on as it is."""
        configuration = self._core.configuration
        settings, member = configuration.settings, configuration.get(node_id)
        if settings is None or not settings.automatic or member is None or member.role is not Role.VOTER:
            return
        if any(m.role is not Role.VOTER and self._is_connected(m.id) for m in configuration.members):
            with suppress(MembershipRefused):
                await self.leave(node_id, deadline)

    async def decided(self, seen: Configuration, node_id: NodeId, role: Role) -> bool:
        """What the role manager decided by `seen`; False, and nothing, if that is not in force any more."""
        async with self.lock:
            configuration = await self.changes.settled(Deadline(DECIDED_S))
            member = configuration.get(node_id)
            if configuration.index != seen.index or member is None:
                return False
            new = configuration.with_member(replace(member, role=role))
            if member.role is Role.VOTER:
                await self._check_quorum_without(node_id, new, Deadline(QUORUM_WAIT_S), "a vote")
            await self.changes.carry_out(new, Deadline(DECIDED_S))
            return True

    async def describe(
        self, node_id: NodeId, deadline: Deadline, *, weight: int | None = None, domain: int | None = None
    ) -> Configuration:
        """Set a member's weight, failure domain, or both. Raises NotLeader, MembershipRefused."""
        async with self.lock:
            configuration = await self.changes.settled(deadline)
            member = self._member(configuration, node_id)
            changed = replace(
                member,
                weight=member.weight if weight is None else weight,
                domain=member.domain if domain is None else domain,
            )
            if changed == member:
                return configuration
            return await self._described(configuration.with_member(changed), deadline)

    async def weight(self, node_id: NodeId, weight: int, deadline: Deadline) -> Configuration:
        return await self.describe(node_id, deadline, weight=weight)

    async def set_roles(self, settings: RoleSettings | None, deadline: Deadline) -> Configuration:
        """What the members are to be; None: all of them vote. Raises NotLeader, MembershipRefused."""
        async with self.lock:
            configuration = await self.changes.settled(deadline)
            if configuration.settings == settings:
                return configuration
            new = Configuration(configuration.members, settings=settings)
            return await self._described(new, deadline)

    async def _described(self, new: Configuration, deadline: Deadline) -> Configuration:
        if new.format > self._core.configuration.format:
            await check_members_read(new, self._core.node_id, self._call)
        await self.changes.carry_out(new, deadline)
        return self._core.configuration

    async def _wait_caught_up(self, node_id: NodeId, deadline: Deadline) -> None:
        """Return when it may be given a vote."""
        while True:
            self.changes.check_leader()
            member = self._member(self._core.configuration, node_id)
            if member.role is Role.VOTER or self.is_caught_up(node_id):
                return
            if deadline.passed:
                peer = self._core.peers.get(node_id)
                raise MembershipRefused(
                    f"member {node_id} has {peer.match_index if peer else 0} of {self._core.last_index} log entries: "
                    "it stays a stand-by; ask again when it has caught up"
                )
            await self._view.wait_change(0.02)

    def look(self) -> None:
        """See who is far behind; asked now and then while this node leads."""
        peers = self._core.peers
        for node_id, peer in peers.items():
            is_far = peer.match_index + CAUGHT_UP_ENTRIES < self._core.last_index
            if peer.state is ProgressState.SNAPSHOT or (peer.match_index > 0 and is_far):
                self._behind_ms[node_id] = self._now_ms()
        for gone in self._behind_ms.keys() - peers.keys():
            del self._behind_ms[gone]
        for over in [node_id for node_id, end in self.leaving.items() if end.passed]:
            del self.leaving[over]

    def is_caught_up(self, node_id: NodeId) -> bool:
        """Its log ends near ours, has done so for a while where it was far behind, and it answers."""
        behind_ms = self._behind_ms.get(node_id)
        if behind_ms is not None and self._now_ms() - behind_ms < STEADY_MS:
            return False
        peer = self._core.peers.get(node_id)
        return (
            peer is not None
            and peer.state is not ProgressState.LOST_DATA
            and peer.match_index > 0
            and not peer.needs_snapshot
            and peer.match_index + CAUGHT_UP_ENTRIES >= self._core.last_index
            and self._now_ms() - peer.last_reply_ms <= self._core.settings.election_max_ms
            and self._is_connected(node_id)
        )

    @staticmethod
    def _member(configuration: Configuration, node_id: NodeId) -> Member:
        member = configuration.get(node_id)
        if member is None:
            raise MembershipRefused(f"no member has the id {node_id}")
        return member

    async def _leave_leadership(self, node_id: NodeId) -> None:
        """Raises NotLeader when this node is to lose its vote and another one leads now: that one goes on."""
        if node_id == self._core.node_id and len(self._core.configuration.voters) > 1:
            self.changes.check_leader()
            if await self._hand_over():
                raise self._view.not_leader()

    async def _check_quorum_without(
        self, node_id: NodeId, remaining: Configuration, deadline: Deadline, loses: str = "its place"
    ) -> None:
        voters = remaining.voters
        if not voters:
            raise MembershipRefused(
                f"{node_id} is the last voter: without {loses} the cluster would be gone. Stop the node instead"
            )
        asked_ms = self._now_ms()
        while True:
            alive = {v for v in voters if v == self._core.node_id or self._answers(v, asked_ms)}
            if len(alive) > len(voters) // 2:
                return
            if deadline.passed:
                gone = ", ".join(map(str, sorted(voters - alive)))
                raise MembershipRefused(
                    f"without {node_id}, {len(alive)} of {len(voters)} voters would be reachable, fewer than a "
                    f"majority: bring back or remove {gone} first"
                )
            await asyncio.sleep(0.05)

    def _answers(self, node_id: NodeId, since_ms: float) -> bool:
        """Heard since then: who has just died is connected for a moment yet."""
        peer = self._core.peers.get(node_id)
        return (
            peer is not None
            and peer.state is not ProgressState.LOST_DATA  # its word does not count
            and peer.last_reply_ms >= since_ms
            and self._is_connected(node_id)
        )

    def view(self) -> list[dict[str, Any]]:
        return [
            {
                "id": m.id,
                "address": m.address,
                "role": m.role.name.lower(),
                "weight": m.weight,
                "domain": m.domain,
            }
            for m in self._core.configuration.members
        ]
