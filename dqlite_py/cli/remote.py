"""Questions to running nodes, from a command: one short-lived client of the peer protocol.

A blocking front over PeerTransport; it never listens and hears no raft messages. Methods that change the
cluster are for nodes of it, so the caller names the cluster's id, which it learns from `status` first. Main
thread only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error, MalformedMessage, NoLeader, OperationalError, OutcomeUnknown
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.messages import Message
from dqlite_py.raft.rpc import RpcLost, RpcNotSent
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import NO_CLUSTER, LocalIdentity

T = TypeVar("T")
Status = dict[str, Any]
_NO_ADDRESS: Final = Address("127.0.0.1:1")  # we are never dialled


class Remote:
    """Asks nodes. Every method blocks for about its timeout at most and raises errors.Error."""

    def __init__(self, tls: TlsSettings | None = None) -> None:
        self._tls = tls

    def status(self, address: Address, timeout_s: float) -> Status:
        """One node's own view."""
        return asyncio.run(self._status(address, timeout_s))

    def statuses(self, addresses: Sequence[Address], timeout_s: float) -> dict[Address, Status | Error]:
        """Several nodes' views, asked at the same time; an Error for who did not answer."""

        async def ask() -> dict[Address, Status | Error]:
            found = await asyncio.gather(*(_or_error(self._status(a, timeout_s)) for a in addresses))
            return dict(zip(addresses, found, strict=True))

        return asyncio.run(ask())

    def change(
        self, address: Address, method: str, body: Any, timeout_s: float, *, at_leader: bool = False
    ) -> Any:
        """Call a method of the node at `address`, or of the leader it knows.

        Raises OutcomeUnknown when the request was delivered and no answer came.
        """
        return asyncio.run(self._change(address, method, body, timeout_s, at_leader))

    async def _status(self, address: Address, timeout_s: float) -> Status:
        async with self._transport(LocalIdentity(NO_CLUSTER, NodeId(0)), _NO_ADDRESS) as transport:
            found = await _call(transport, address, "status", {}, timeout_s)
        if not isinstance(found, dict):
            raise MalformedMessage(f"{address} answered with something that is no status", what="status")
        return found

    async def _change(
        self, address: Address, method: str, body: Any, timeout_s: float, at_leader: bool
    ) -> Any:
        status = await self._status(address, timeout_s)
        target = _leader_of(status, address) if at_leader else address
        identity = LocalIdentity(_cluster_of(status, address), NodeId(random.randrange(1, 2**63)))
        claims = self._claims(status)
        while True:
            async with self._transport(identity, claims.pop(0)) as transport:
                try:
                    return await _call(transport, target, method, body, timeout_s)
                except OutcomeUnknown:
                    raise
                except _NotSent:  # nothing was delivered, so asking again is safe
                    if not claims:
                        raise

    def _claims(self, status: Status) -> list[Address]:
        """Addresses to give as ours. With TLS a member's: the one whose certificate we were given fits."""
        if self._tls is None:
            return [_NO_ADDRESS]
        members = status.get("members")
        found = (
            [m.get("address") for m in members if isinstance(m, dict)] if isinstance(members, list) else []
        )
        return [Address(a) for a in found if isinstance(a, str)] or [_NO_ADDRESS]

    @asynccontextmanager
    async def _transport(self, identity: LocalIdentity, claim: Address) -> AsyncIterator[PeerTransport]:
        """A transport that only calls: it is never started, so it listens nowhere."""
        transport = PeerTransport(
            identity=lambda: identity,
            listen=_NO_ADDRESS,
            advertise=claim,
            tls=self._tls,
            on_message=_ignore,
            accept_sender=lambda _sender: False,
        )
        try:
            yield transport
        finally:
            await transport.stop()


class _NotSent(OperationalError):
    """The request was certainly not delivered."""


async def _call(transport: PeerTransport, address: Address, method: str, body: Any, timeout_s: float) -> Any:
    try:
        return await transport.call(address, method, body, timeout_s)
    except RpcNotSent as error:
        raise _NotSent(
            f"no answer from {address}: {error}. Is a node running there, and is the address right?"
        ) from None
    except RpcLost as error:
        raise OutcomeUnknown(f"{address} got the request {method!r} but did not answer: {error}") from None


def _leader_of(status: Status, asked: Address) -> Address:
    if status.get("is_leader") is True:
        return asked
    leader = status.get("leader_address")
    if not isinstance(leader, str) or not leader:
        raise NoLeader(f"the node at {asked} knows no leader now")
    return Address(leader)


def _cluster_of(status: Status, asked: Address) -> bytes:
    try:
        cluster_id = bytes.fromhex(str(status.get("cluster_id")))
    except ValueError:
        cluster_id = b""
    if len(cluster_id) != 16:
        raise MalformedMessage(f"the status of {asked} names no cluster", what="cluster_id")
    return cluster_id


async def _or_error(work: Awaitable[T]) -> T | Error:
    try:
        return await work
    except Error as error:
        return error


def _ignore(_sender: NodeId, _message: Message) -> None:
    """No sender is accepted, so nothing comes."""
