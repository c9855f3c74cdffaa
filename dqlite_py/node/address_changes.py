"""A member's new address in the configuration: told by the member itself, or set by an operator. Leader, loop thread.

A member is its id; its address may change at any time. What an operator sets is proved first: whoever answers there
must show this id of this cluster in the handshake, so that a typo cannot lose a member. Members whose new addresses
are each other's old ones (two machines that were swapped) move in one entry, each proved.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from dqlite_py.errors import MemberRefused, MembershipRefused
from dqlite_py.logs import event
from dqlite_py.model import Address, Configuration, Member, NodeId
from dqlite_py.node.membership import Membership
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.dialer import DialFailed
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import Refusal

log = logging.getLogger("dqlite_py.membership")


class AddressChanges:
    def __init__(self, own_id: NodeId, membership: Membership, transport: PeerTransport) -> None:
        self._own_id = own_id
        self._membership = membership
        self._transport = transport

    async def told(self, node_id: NodeId, address: Address, deadline: Deadline) -> None:
        """A member says that it is at a new address; nothing happens when that is known.

        Raises NotLeader, MemberRefused, MembershipRefused; OutcomeUnknown once it was proposed.
        """
        async with self._membership.lock:
            configuration = await self._membership.changes.settled(deadline)
            member = configuration.get(node_id)
            if member is None:
                raise MemberRefused(
                    f"node {node_id} is not a member of this cluster (it was removed): join it again"
                )
            await self._move(configuration, member, address, deadline)

    async def set(self, node_id: NodeId, address: Address, deadline: Deadline) -> Address:
        """Give a member the address where it answers now; what it advertises, which should be the same.

        Raises NotLeader, MembershipRefused with what was found there; OutcomeUnknown once it was proposed.
        """
        async with self._membership.lock:
            configuration = await self._membership.changes.settled(deadline)
            member = configuration.get(node_id)
            if member is None:
                raise MembershipRefused(f"no member has the id {node_id}")
            advertised = await self._prove(node_id, address, deadline)
            await self._move(configuration, member, address, deadline)
            return advertised

    async def _move(
        self, configuration: Configuration, member: Member, address: Address, deadline: Deadline
    ) -> None:
        if member.address == address:
            return
        moves = self._with_those_in_the_way(configuration, member.id, address)
        others = [(node_id, now) for node_id, now in moves.items() if node_id != member.id]
        if others:
            others.append((member.id, address))
        for node_id, now in others:
            await self._prove(node_id, now, deadline)
        new = configuration
        for node_id, now in moves.items():
            known = configuration.get(node_id)
            assert known is not None
            new = new.with_member(replace(known, address=now))
        await self._membership.changes.carry_out(new, deadline)
        for node_id, now in moves.items():
            event(log, logging.INFO, "member moved", member=node_id, address=now)

    def _with_those_in_the_way(
        self, configuration: Configuration, node_id: NodeId, address: Address
    ) -> dict[NodeId, Address]:
        """The wanted move, and of each member that still has an address which another one gets, its own."""
        moves = {node_id: address}
        holders = {member.address: member.id for member in configuration.members}
        while (holder := holders.get(address)) is not None and holder not in moves:
            now = self._where_is(holder)
            if now is None or now == address:
                raise MemberRefused(
                    f"address {address} is still member {holder}'s in the configuration; it must move first"
                )
            moves[holder] = address = now
        return moves

    def _where_is(self, node_id: NodeId) -> Address | None:
        """Where it was seen last, by its handshake."""
        if node_id == self._own_id:
            return self._transport.advertised_address()
        return self._transport.learned_address(node_id)

    async def _prove(self, node_id: NodeId, address: Address, deadline: Deadline) -> Address:
        try:
            async with asyncio.timeout(deadline.left_s):
                return await self._transport.callers.prove(address, node_id)
        except DialFailed as failure:
            if node_id == self._own_id and failure.reason is Refusal.OWN_ID:
                return self._transport.advertised_address()  # it reached itself
            reason = failure.message
        except TimeoutError:
            reason = "no answer in time"
        raise MembershipRefused(
            f"member {node_id} does not answer at {address}: {reason}. Nothing was changed", member_id=node_id
        )
