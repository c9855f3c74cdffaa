"""Who is where: peers to dial, our own address in the configuration, and whether we still belong. Loop thread.

A node dials the members of its configuration; beyond them the leader that speaks to it (its configuration may be an
old one), members that were removed and do not know it yet, and, before the first configuration, whoever of the
cluster has shown itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from dqlite_py.errors import Error, MalformedMessage
from dqlite_py.logs import event
from dqlite_py.model import Address, Configuration, NodeId
from dqlite_py.node.address_changes import AddressChanges
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.inbound import Inbound
from dqlite_py.node.membership import Membership
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.writes import Writes
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.rpc import RpcError
from dqlite_py.raft.transport import PeerTransport

log = logging.getLogger("dqlite_py.membership")

ASK_S = 2.0
ADDRESS_CHECK_S = 1.0


class Presence:
    def __init__(
        self,
        *,
        core: RaftCore,
        view: ClusterView,
        transport: PeerTransport,
        inbound: Inbound,
        writes: Writes,
        membership: Membership,
        call: Callable[[NodeId, str, Any, float], Awaitable[Any]],
        removed: asyncio.Event,
        on_removed: Callable[[], None],
    ) -> None:
        self._core = core
        self._view = view
        self._transport = transport
        self._inbound = inbound
        self._writes = writes
        self.addresses = AddressChanges(core.node_id, membership, transport)
        self._is_address_told = False
        self._call = call
        self._removed = removed
        self._on_removed = on_removed
        self._addresses: dict[NodeId, Address] = {}  # of every member ever seen

    def sync_peers(self) -> None:
        """Dial the members; before the first configuration arrives, whoever of our cluster has shown itself."""
        members = {m.id: m.address for m in self._view.configuration.members if m.id != self._core.node_id}
        self._addresses.update(members)
        for departed in self._core.peers:
            # A removed member is fed until it knows (thesis 4.2.2).
            if departed not in members and departed in self._addresses:
                members[departed] = self._addresses[departed]
        leader = self._core.leader_id
        if not members:
            members = dict(self._inbound.learned)
        elif leader is not None and leader not in members and leader in self._inbound.learned:
            members[leader] = self._inbound.learned[
                leader
            ]  # a member that our configuration does not hold yet
        self._transport.set_peers(members)

    async def keep_address(self) -> None:
        """Tell the leader when our advertised address is not the one in the configuration.

        Once it was there, another one is what an operator has set meanwhile, and stays until this node starts again.
        """
        while not self._removed.is_set() and not self._is_address_told:
            me = self._view.configuration.get(self._core.node_id)
            if me is not None and me.address != self._transport.advertised_address():
                await self._tell_address(self._transport.advertised_address())
            elif me is not None and (
                self._view.is_spare or me == self._core.committed_configuration.get(me.id)
            ):
                self._is_address_told = True
            await asyncio.sleep(ADDRESS_CHECK_S)

    async def _tell_address(self, mine: Address) -> None:
        try:
            await self._writes.on_leader(
                "leader.address",
                {"id": self._core.node_id, "address": mine},
                Deadline(5.0),
                lambda: self.addresses.told(self._core.node_id, mine, Deadline(5.0)),
            )
            self._is_address_told = True
        except (Error, RpcError) as error:
            event(log, logging.WARNING, "the cluster does not know our new address yet", reason=error)

    async def ask_for_configuration(self) -> None:
        """What the log does not tell: a node that was down while it was removed hears from no leader, members tell it;
        a spare has the leader's word for who is where."""
        while not self._removed.is_set():
            await asyncio.sleep(ASK_S)
            leader = self._core.leader_id
            if leader is None:
                await self._ask_if_removed()
            elif leader != self._core.node_id and (self._view.is_spare or self._core.is_behind):
                await self._ask_leader(leader)

    async def _ask_if_removed(self) -> None:
        mine = self._view.configuration
        if mine.get(self._core.node_id) is None and not self._core.was_member:
            return  # it joins: what it has of the log is from before that
        for member in mine.members:
            if member.id == self._core.node_id or self._core.leader_id is not None:
                continue
            theirs = await self._ask(member.id)
            # Equal: ours may be its removal itself, which nobody has told it is committed.
            if theirs is not None and theirs.index >= mine.index and theirs.get(self._core.node_id) is None:
                self._on_removed()
                return

    async def _ask_leader(self, leader: NodeId) -> None:
        theirs = await self._ask(leader)
        mine = self._view.configuration
        if theirs is None or theirs.index <= mine.index:
            return
        if mine.get(self._core.node_id) is not None and theirs.get(self._core.node_id) is None:
            # BEFORE it is ours: by a configuration without us nobody would be asked any more.
            self._on_removed()
            return
        self._view.told = theirs
        self.sync_peers()
        self._view.changed()

    async def _ask(self, node_id: NodeId) -> Configuration | None:
        """The committed configuration there."""
        try:
            answer = await self._call(node_id, "raft.configuration", {}, 1.0)
            index = answer["index"]
            if type(index) is not int or not 0 <= index < 2**63:
                raise MalformedMessage(f"configuration at log index {index!r:.40}", what="configuration")
            return Configuration.from_wire(answer["members"], index)
        except (Error, RpcError, KeyError, TypeError) as error:
            event(log, logging.DEBUG, "a member gave no configuration", member=node_id, reason=error)
            return None
