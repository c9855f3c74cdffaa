"""Requests to nodes of one cluster, by address, from a program that is no member. Loop thread.

Never listens and hears no raft messages. A node reads large requests only from callers that name its cluster, so the
cluster's id is learned from the first node that answers; from then on only nodes of that cluster are spoken to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from dqlite_py.config import TlsSettings
from dqlite_py.errors import MalformedMessage, WrongCluster
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.messages import Message
from dqlite_py.raft.rpc import RpcNotSent
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import NO_CLUSTER, LocalIdentity

Status = dict[str, Any]
_NO_NODE: Final = NodeId(0)


class ClusterCaller:
    """Made on the loop it is used on; `stop` it there."""

    def __init__(self, tls: TlsSettings | None = None) -> None:
        self._cluster_id = NO_CLUSTER
        self._asking = asyncio.Lock()
        self.transport = PeerTransport(  # never started: it listens nowhere
            identity=lambda: LocalIdentity(self._cluster_id, _NO_NODE),
            listen=Address("127.0.0.1:0"),
            tls=tls,
            on_message=_ignore,
            accept_sender=lambda _sender: False,
        )

    @property
    def cluster_id(self) -> bytes:
        """NO_CLUSTER until it is known."""
        return self._cluster_id

    async def call(self, target: Address, method: str, body: Any, timeout_s: float) -> Any:
        """Ask a node of the cluster. Raises what PeerTransport.call raises: RpcNotSent (certainly not delivered),
        RpcLost (it may have been executed), or the errors.Error of the other side."""
        if self._cluster_id == NO_CLUSTER:
            async with self._asking:
                if self._cluster_id == NO_CLUSTER:
                    self.learn(await self.status(target, timeout_s), target)
        return await self.transport.call(target, method, body, timeout_s)

    async def status(self, target: Address, timeout_s: float) -> Status:
        """A node's own view, of any cluster while ours is not known; raises as `call`."""
        found = await self.transport.call(target, "status", {}, timeout_s)
        if not isinstance(found, dict):
            raise MalformedMessage(f"{target} answered with something that is no status", what="status")
        return found

    def learn(self, status: Status, target: Address) -> None:
        """Belong to the cluster of this status from now on.

        Raises RpcNotSent when it names none, WrongCluster when we belong to another one.
        """
        try:
            cluster_id = bytes.fromhex(str(status.get("cluster_id")))
        except ValueError:
            cluster_id = b""
        if len(cluster_id) != len(NO_CLUSTER) or cluster_id == NO_CLUSTER:
            raise RpcNotSent(f"the node at {target} belongs to no cluster (yet)")
        if self._cluster_id == NO_CLUSTER:
            self._cluster_id = cluster_id
            self.transport.identity_changed()
        elif self._cluster_id != cluster_id:
            raise WrongCluster(
                f"the node at {target} belongs to cluster {cluster_id.hex()}, the others to {self._cluster_id.hex()}"
            )

    async def stop(self) -> None:
        await self.transport.stop()


def _ignore(_sender: NodeId, _message: Message) -> None:
    """No sender is accepted, so nothing comes."""


@asynccontextmanager
async def open_caller(tls: TlsSettings | None = None) -> AsyncIterator[ClusterCaller]:
    caller = ClusterCaller(tls)
    try:
        yield caller
    finally:
        await caller.stop()
