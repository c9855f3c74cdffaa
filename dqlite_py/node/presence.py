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

from dqlite_py.errors import Error
from dqlite_py.model import Address, Configuration, NodeId
from dqlite_py.node.inbound import Inbound
from dqlite_py.node.membership import Membership
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.writes import Writes
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.rpc import RpcError
from dqlite_py.raft.transport import PeerTransport

log = logging.getLogger("dqlite_py.membership")

ASK_IF_REMOVED_S = 2.0
ADDRESS_CHECK_S = 1.0


class Presence:
    def __init__(
        self,
        *,
        core: RaftCore,
        transport: PeerTransport,
        inbound: Inbound,
        writes: Writes,
        membership: Membership,
        call: Callable[[NodeId, str, Any, float], Awaitable[Any]],
        removed: asyncio.Event,
        on_removed: Callable[[], None],
    ) -> None:
        self._core = core
        self._transport = transport
        self._inbound = inbound
        self._writes = writes
        self._membership = membership
        self._call = call
        self._removed = removed
        self._on_removed = on_removed
        self._addresses: dict[NodeId, Address] = {}  # of every member ever seen

    def sync_peers(self) -> None:
        """Dial the members; before the first configuration arrives, whoever of our cluster has shown itself."""
        members = {m.id: m.address for m in self._core.configuration.members if m.id != self._core.node_id}
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
        """Tell the leader when our advertised address is not the one in the configuration."""
        while not self._removed.is_set():
            me = self._core.configuration.get(self._core.node_id)
            if me is not None and me.address != self._transport.advertised_address():
                body = {"id": self._core.node_id, "address": self._transport.advertised_address()}
                try:
                    await self._writes.on_leader(
                        "leader.address",
                        body,
                        Deadline(5.0),
                        lambda: self._membership.update_address(
                            self._core.node_id, self._transport.advertised_address(), Deadline(5.0)
                        ),
                    )
                except (Error, RpcError) as error:
                    log.warning("the cluster does not know our new address yet: %s", error)
            await asyncio.sleep(ADDRESS_CHECK_S)

    async def ask_if_removed(self) -> None:
        """A node that was down while it was removed hears from no leader: members tell it."""
        while not self._removed.is_set():
            await asyncio.sleep(ASK_IF_REMOVED_S)
            mine = self._core.configuration
            if self._core.leader_id is not None or mine.get(self._core.node_id) is None:
                continue
            for member in mine.members:
                if member.id == self._core.node_id or self._core.leader_id is not None:
                    continue
                try:
                    answer = await self._call(member.id, "raft.configuration", {}, 1.0)
                    theirs = Configuration.from_wire(answer["members"], answer["index"])
                except (Error, RpcError, KeyError, TypeError) as error:
                    log.debug("member %s gave no configuration: %s", member.id, error)
                    continue
                if theirs.index > mine.index and theirs.get(self._core.node_id) is None:
                    self._on_removed()
                    return
