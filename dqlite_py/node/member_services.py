"""RPC methods about members: who they are, and changes of them. Checked bodies in, plain values out. Loop thread.

As in services.py: `leader.*` and `raft.*` act on this node only, the others may be asked of any node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from dqlite_py.errors import (
    MalformedMessage,
    MembershipRefused,
    OperationalError,
    OutcomeUnknown,
    WrongCluster,
)
from dqlite_py.model import NodeId, Role, RoleSettings, settings_from_wire
from dqlite_py.node.fields import TIMEOUT_S, address_of, field, member_id_of, seconds_of, timeout_of
from dqlite_py.node.formats import FORMATS, check_joiner_reads
from dqlite_py.node.membership import Membership
from dqlite_py.node.programs import Handler
from dqlite_py.node.runtime_parts import Parts
from dqlite_py.node.tickets import Deadline

ROLES: Final = {role.name.lower(): role for role in Role}
ANSWER_S: Final = 1.0  # for the leader's answer to come, beyond the time that it has


def _role(body: Any, default: Role | None = None) -> Role:
    name = field(body, "role", str, None if default is None else default.name.lower())
    role = ROLES.get(name)
    if role is None:
        raise MalformedMessage(f"role {name!r:.40} is none of {', '.join(ROLES)}", what="role")
    return role


def _u64(body: Any, name: str) -> int | None:
    value = body.get(name)
    if value is not None and not (type(value) is int and 0 <= value < 2**64):
        raise MalformedMessage(f"field {name!r} must be a whole number below 2**64", what=name)
    return value


def _settings(body: Any) -> RoleSettings | None:
    if not isinstance(body, dict) or "settings" not in body:
        raise MalformedMessage("field 'settings' is missing", what="settings")
    return settings_from_wire(body["settings"])


class MemberServices:
    """Registers the handlers on the transport."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def register(self) -> None:
        add = self._parts.transport.register
        for_nodes: dict[str, Handler] = {
            "leader.remove": self.leader_remove,
            "leader.assign": self.leader_assign,
            "leader.add": self.leader_add,
            "leader.describe": self.leader_describe,
            "leader.leave": self.leader_leave,
            "leader.roles": self.leader_roles,
            "raft.configuration": self.configuration,
            "raft.formats": self.formats,
        }
        add("join", self.join, open_to_joiners=True)
        for_programs: dict[str, Handler] = {
            "members": self.members,
            "add": self.add,
            "assign": self.assign,
            "describe": self.describe,
            "leave": self.leave,
            "roles": self.roles,
            "remove": self.remove,
            "transfer": self.transfer,
        }
        for method, handler in (for_nodes | for_programs).items():
            add(method, handler)
        self._parts.programs.add(for_programs)

    # -- the leader's -----------------------------------------------------------------------------------------

    async def leader_remove(self, _ctx: Any, body: Any) -> Any:
        await self._parts.membership.remove(member_id_of(body), Deadline(timeout_of(body)))
        return self._parts.membership.view()

    async def leader_assign(self, _ctx: Any, body: Any) -> Any:
        await self._parts.membership.assign(member_id_of(body), _role(body), Deadline(timeout_of(body)))
        return self._parts.membership.view()

    async def leader_add(self, _ctx: Any, body: Any) -> Any:
        node_id, address, role = member_id_of(body), address_of(body), _role(body, Role.SPARE)
        await self._parts.membership.join(node_id, address, Deadline(timeout_of(body)), role)
        return self._parts.membership.view()

    async def leader_describe(self, _ctx: Any, body: Any) -> Any:
        node_id, weight, domain = member_id_of(body), _u64(body, "weight"), _u64(body, "domain")
        deadline = Deadline(timeout_of(body))
        await self._parts.membership.describe(node_id, deadline, weight=weight, domain=domain)

    async def leader_leave(self, _ctx: Any, body: Any) -> Any:
        node_id, deadline = member_id_of(body), Deadline(timeout_of(body))
        again_s = seconds_of(body, "asks_again_s") if "asks_again_s" in body else 0.0
        await self._parts.membership.leave(node_id, deadline, asks_again_s=again_s)

    async def leader_roles(self, _ctx: Any, body: Any) -> Any:
        await self._parts.membership.set_roles(_settings(body), Deadline(timeout_of(body)))

    async def formats(self, _ctx: Any, _body: Any) -> Any:
        return FORMATS

    async def configuration(self, _ctx: Any, _body: Any) -> Any:
        """The committed configuration, for a member that was away."""
        committed = self._parts.core.committed_configuration
        return {"index": committed.index, "members": committed.to_wire()}

    async def join(self, _ctx: Any, body: Any) -> Any:
        """Answered by the leader; others name it (the joiner asks there)."""
        node_id, address = member_id_of(body), address_of(body)
        formats, expected = body.get("formats"), field(body, "cluster_id", bytes, b"")
        if expected and expected not in self._continues():
            raise WrongCluster(
                f"this is cluster {self._parts.cluster_id.hex()}, which does not continue {expected.hex()}"
            )
        configuration = await self._parts.membership.join(
            node_id,
            address,
            Deadline(TIMEOUT_S),
            check=lambda: check_joiner_reads(self._parts.core.format_in_log, formats),
        )
        return {
            "cluster_id": self._parts.cluster_id,
            "members": configuration.to_wire(),
            "recovered_from": [p.to_wire() for p in self._parts.opened.predecessors],
        }

    def _continues(self) -> set[bytes]:
        """Our cluster, and those that it was recovered from."""
        return {self._parts.cluster_id, *(p.cluster_id for p in self._parts.opened.predecessors)}

    # -- any node's ---------------------------------------------------------------------------------------------

    async def members(self, _ctx: Any, _body: Any) -> Any:
        return self._parts.membership.view()

    async def add(self, _ctx: Any, body: Any) -> Any:
        """Add a member as a spare (the default) or a stand-by; a member that is known keeps its role."""
        node_id, address, role = member_id_of(body), address_of(body), _role(body, Role.SPARE)
        body = {"id": node_id, "address": address, "role": role.name.lower()}
        return await self._at_leader(
            "leader.add", body, lambda m, deadline: m.join(node_id, address, deadline, role)
        )

    async def assign(self, _ctx: Any, body: Any) -> Any:
        """Give a member a role; waits, in `timeout_s`, until a new voter has caught up."""
        node_id, role = member_id_of(body), _role(body)
        settings = self._parts.view.configuration.settings
        if settings is not None and settings.automatic:
            raise MembershipRefused(
                f"roles are kept automatically ({settings.voters} voters, {settings.standbys} stand-bys): change the "
                "numbers or the weights, or switch to roles by hand"
            )
        request = {"id": node_id, "role": role.name.lower()}
        return await self._at_leader(
            "leader.assign", request, lambda m, deadline: m.assign(node_id, role, deadline), timeout_of(body)
        )

    async def remove(self, _ctx: Any, body: Any) -> Any:
        node_id = member_id_of(body)
        return await self._at_leader("leader.remove", {"id": node_id}, lambda m, end: m.remove(node_id, end))

    async def transfer(self, _ctx: Any, body: Any) -> Any:
        """Only on the leader: hand leadership over; answers when another node leads."""
        target = body.get("target") if isinstance(body, dict) else None
        if target is not None and type(target) is not int:
            raise MalformedMessage("field 'target' must be a member id", what="target")
        chosen = await self._parts.transfer(None if target is None else NodeId(target), TIMEOUT_S)
        if chosen is None and not self._parts.core.is_leader:
            raise OutcomeUnknown("this node does not lead any more, and knows no other leader yet")
        if chosen is None:
            raise OperationalError("leadership was not taken over in time; this node still leads")
        return {"target": chosen}

    async def describe(self, _ctx: Any, body: Any) -> Any:
        """Set a member's `weight`, failure `domain`, or both."""
        node_id, weight, domain = member_id_of(body), _u64(body, "weight"), _u64(body, "domain")
        request = {"id": node_id, "weight": weight, "domain": domain}
        return await self._at_leader(
            "leader.describe", request, lambda m, end: m.describe(node_id, end, weight=weight, domain=domain)
        )

    async def leave(self, _ctx: Any, body: Any) -> Any:
        """Relieve a member of vote and leadership, before its node stops for long."""
        node_id = member_id_of(body)
        return await self._at_leader(
            "leader.leave", {"id": node_id}, lambda m, end: m.leave(node_id, end), timeout_of(body)
        )

    async def roles(self, _ctx: Any, body: Any) -> Any:
        """Set what the members are to be: `settings` nil (all vote) or four values as in the configuration."""
        settings = _settings(body)
        request = {"settings": body.get("settings")}
        return await self._at_leader("leader.roles", request, lambda m, end: m.set_roles(settings, end))

    async def _at_leader(
        self,
        method: str,
        body: dict[str, Any],
        here: Callable[[Membership, Deadline], Awaitable[Any]],
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        """Ask the leader, or do it `here`; the members as this node sees them afterwards."""
        membership, deadline = self._parts.membership, Deadline(timeout_s)

        def request() -> dict[str, Any]:
            return {**body, "timeout_s": max(0.001, deadline.left_s)}

        await self._parts.writes.on_leader(
            method, request, deadline, lambda: here(membership, deadline), answer_s=ANSWER_S
        )
        return membership.view()
