"""RPC methods about members' addresses. Loop thread; see services.py for who may ask what."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from dqlite_py.errors import OutcomeUnknown
from dqlite_py.model import Address, NodeId
from dqlite_py.node.fields import TIMEOUT_S, address_of, member_id_of
from dqlite_py.node.runtime_parts import Parts
from dqlite_py.node.tickets import Deadline

_ASK_AGAIN_S: Final = 0.05  # setting an address twice is setting it once


class AddressServices:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def register(self) -> None:
        add = self._parts.transport.register
        add("leader.address", self.leader_address)
        add("leader.set_address", self.leader_set_address)
        add("set_address", self.set_address)
        self._parts.programs.add({"set_address": self.set_address})

    async def leader_address(self, _ctx: Any, body: Any) -> Any:
        """A member tells its own."""
        node_id, address = member_id_of(body), address_of(body)
        await self._parts.presence.addresses.told(node_id, address, Deadline(TIMEOUT_S))
        return self._parts.membership.view()

    async def leader_set_address(self, _ctx: Any, body: Any) -> Any:
        node_id, address = member_id_of(body), address_of(body)
        return str(await self._parts.presence.addresses.set(node_id, address, Deadline(TIMEOUT_S)))

    async def set_address(self, _ctx: Any, body: Any) -> Any:
        """An operator's; any node passes it on. {"advertised": what the member itself says}."""
        node_id, address = member_id_of(body), address_of(body)
        deadline = Deadline(TIMEOUT_S)
        while True:
            try:
                return {"advertised": str(await self._set_at_leader(node_id, address, deadline))}
            except OutcomeUnknown:
                # The leader's own address: we give up the connection to the old one before its answer has come.
                if deadline.passed:
                    raise
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _set_at_leader(self, node_id: NodeId, address: Address, deadline: Deadline) -> Any:
        return await self._parts.writes.on_leader(
            "leader.set_address",
            {"id": node_id, "address": address},
            deadline,
            lambda: self._parts.presence.addresses.set(node_id, address, deadline),
        )
