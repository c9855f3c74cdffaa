"""Requests about the cluster: who leads, who belongs to it, in which role. Loop thread."""

from __future__ import annotations

from typing import Final

from dqlite_py.errors import InterfaceError, OutcomeUnknown
from dqlite_py.limits import REQUEST_TIMEOUT_MS
from dqlite_py.model import Address, NodeId, Role
from dqlite_py.node.runtime_parts import Parts
from dqlite_py.node.tickets import Deadline
from dqlite_py.server.dqlite.failures import ERROR, LOST, PROTOCOL, Refused
from dqlite_py.wire.address import split_address
from dqlite_py.wire.dqlite.responses import Failure, Metadata, Server, ServerEntry, Servers
from dqlite_py.wire.dqlite.violations import CODE_PARSE

TIMEOUT_S: Final = REQUEST_TIMEOUT_MS / 1000
CATCH_UP_S: Final = 600.0  # who is to vote may have much to fetch; the client gives up when it likes
_IN_USE: Final = Failure(ERROR, "server ID already in use")
_NO_SERVER: Final = Failure(ERROR, "server ID is not valid")
_NOT_FOUND: Final = Failure(ERROR, "Resource not found")
_SAME_ROLE: Final = Failure(ERROR, "server role is not valid")


class ClusterCalls:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def leader(self) -> Server:
        """(0, "") when none is known that takes requests."""
        view, core = self._parts.view, self._parts.core
        leader = core.node_id if view.is_ready_leader else view.remote_leader
        member = core.configuration.get(leader) if leader is not None else None
        return Server(0, "") if member is None else Server(member.id, member.address)

    def members(self, form: int) -> Servers:
        """Raises Refused for an unknown format."""
        if form not in (0, 1):
            raise Refused(Failure(CODE_PARSE, "unrecognized cluster format"))
        members = self._parts.core.configuration.members
        return Servers(tuple(ServerEntry(m.id, m.address, m.role if form else None) for m in members))

    def check_leader(self) -> None:
        """Raises Refused where another node has to be asked."""
        if not self._parts.view.is_ready_leader:
            raise Refused(LOST)

    async def transfer(self, target: int) -> None:
        """Return when another node leads; 0: any voter."""
        self.check_leader()
        if target and self._parts.core.configuration.get(NodeId(target)) is None:
            raise Refused(_NO_SERVER)
        if target == self._parts.core.node_id:
            return
        chosen = await self._parts.transfer(NodeId(target) if target else None, TIMEOUT_S)
        if chosen is None and self._parts.core.is_leader:
            raise Refused(Failure(ERROR, "leadership transfer failed"))
        if chosen is None:
            raise OutcomeUnknown("this node does not lead any more, and knows no other leader yet")

    async def add(self, node_id: int, address: str) -> None:
        """Add it as a spare, as clients expect. Raises Refused, MembershipRefused, MemberRefused."""
        self.check_leader()
        configuration = self._parts.core.configuration
        if configuration.get(NodeId(node_id)) is not None:
            raise Refused(_IN_USE)
        if not 0 < node_id < 2**63:
            raise Refused(_NO_SERVER)
        try:
            _host, port = split_address(address)
        except InterfaceError as error:
            raise Refused(Failure(ERROR, error.message)) from None
        if port == 0:
            raise Refused(Failure(ERROR, f"address {address!r} has port 0, which nobody can dial"))
        await self._parts.membership.join(NodeId(node_id), Address(address), Deadline(TIMEOUT_S), Role.SPARE)

    async def assign(self, node_id: int, role: int) -> None:
        """Return when the member has the role: one that is to vote catches up first."""
        self.check_leader()
        member = self._parts.core.configuration.get(NodeId(node_id))
        if member is None:
            raise Refused(_NOT_FOUND)
        if role not in tuple(Role) or member.role == role:
            raise Refused(_SAME_ROLE)
        membership, deadline = self._parts.membership, Deadline(CATCH_UP_S)
        body = {"id": node_id, "role": Role(role).name.lower(), "timeout_s": CATCH_UP_S}
        # A leader that takes its own vote hands over first: the next one does it.
        await self._parts.writes.on_leader(
            "leader.assign", body, deadline, lambda: membership.assign(NodeId(node_id), Role(role), deadline)
        )

    async def remove(self, node_id: int) -> None:
        self.check_leader()
        if self._parts.core.configuration.get(NodeId(node_id)) is None:
            raise Refused(_NO_SERVER)
        membership, deadline = self._parts.membership, Deadline(TIMEOUT_S)
        await self._parts.writes.on_leader(
            "leader.remove",
            {"id": node_id},
            deadline,
            lambda: membership.remove(NodeId(node_id), deadline),
        )

    def describe(self, form: int) -> Metadata:
        """Of this node. Raises Refused for an unknown format."""
        if form != 0:
            raise Refused(Failure(PROTOCOL, "bad format version"))
        me = self._parts.view.configuration.get(self._parts.core.node_id)
        return Metadata(0, 0) if me is None else Metadata(me.domain, me.weight)

    async def set_weight(self, weight: int) -> None:
        """Of this node, as clients mean it."""
        parts, deadline = self._parts, Deadline(TIMEOUT_S)
        node_id = parts.core.node_id
        await parts.writes.on_leader(
            "leader.describe",
            {"id": node_id, "weight": weight, "domain": None},
            deadline,
            lambda: parts.membership.weight(node_id, weight, deadline),
        )
