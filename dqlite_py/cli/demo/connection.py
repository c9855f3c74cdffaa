"""The demo's end of the peer transport: calls only, to whoever is at an address. Loop thread.

SQL methods are for nodes of the cluster; until there are client accounts, the caller names the cluster's id,
which it asks the first node for. It is no member, so raft messages are neither sent nor heard.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dqlite_py.model import Address, NodeId
from dqlite_py.raft.messages import Message
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import NO_CLUSTER, LocalIdentity


class ClusterCaller:
    """Implements client.Caller."""

    def __init__(self) -> None:
        self._cluster_id = NO_CLUSTER
        self._node_id = NodeId(random.randrange(1, 2**63))
        self._asking = asyncio.Lock()
        self.transport = PeerTransport(
            identity=lambda: LocalIdentity(self._cluster_id, self._node_id),
            listen=Address("127.0.0.1:0"),
            on_message=_ignore,
            accept_sender=lambda _sender: False,
        )

    async def call(self, target: Address, method: str, body: Any, timeout_s: float) -> Any:
        async with self._asking:
            if self._cluster_id == NO_CLUSTER:
                await self._learn_cluster(target, timeout_s)
        return await self.transport.call(target, method, body, timeout_s)

    async def _learn_cluster(self, target: Address, timeout_s: float) -> None:
        """`status` is open to callers without a cluster."""
        status = await self.transport.call(target, "status", {}, timeout_s)
        found = status.get("cluster_id") if isinstance(status, dict) else None
        cluster_id = bytes.fromhex(found) if isinstance(found, str) else found
        if isinstance(cluster_id, bytes) and len(cluster_id) == 16 and cluster_id != NO_CLUSTER:
            self._cluster_id = cluster_id
            self.transport.identity_changed()


def _ignore(_sender: NodeId, _message: Message) -> None:
    """No sender is accepted, so nothing comes."""


@asynccontextmanager
async def open_caller() -> AsyncIterator[ClusterCaller]:
    caller = ClusterCaller()
    await caller.transport.start()
    try:
        yield caller
    finally:
        await caller.transport.stop()
