"""Requests to nodes of one cluster, by address, from a program that is no member. Loop thread.

The cluster's id is learned from the first node that answers; from then on only nodes of that cluster are spoken to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from dqlite_py.client.connections import Connections
from dqlite_py.client.wire import NodeConnection, NoRoom
from dqlite_py.config import TlsSettings
from dqlite_py.errors import MalformedMessage
from dqlite_py.model import Address
from dqlite_py.wire.handshake import NO_CLUSTER
from dqlite_py.wire.rpc import RpcNotSent

Status = dict[str, Any]


class ClusterCaller:
    """Made on the loop it is used on; `stop` it there."""

    def __init__(self, tls: TlsSettings | None = None) -> None:
        self.connections = Connections(tls)

    @property
    def cluster_id(self) -> bytes:
        """NO_CLUSTER until it is known."""
        return self.connections.cluster_id or NO_CLUSTER

    async def call(self, target: Address, method: str, body: Any, timeout_s: float) -> Any:
        """Ask a node of the cluster. Raises RpcNotSent (certainly not delivered), WrongCluster (not delivered), RpcLost
        (it may have been executed), InterfaceError or RequestTooLarge for the body, or the errors.Error of the node."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        connection = self.connections.open_to(target)
        if connection is None:
            connection = await self._connection(deadline, target, method)
        return await connection.call(method, body, deadline)

    async def in_turn(self, target: Address, method: str, deadline: float) -> NodeConnection:
        """A connection with room for one more call, whose `turns` are to be released after it: a node refuses what is
        too much. `deadline`: loop time. Raises RpcNotSent, WrongCluster."""
        connection = self.connections.open_to(target)
        if connection is None:
            connection = await self._connection(deadline, target, method)
        if connection.turns.locked():
            try:
                async with asyncio.timeout_at(deadline):
                    await connection.turns.acquire()
            except TimeoutError:
                raise NoRoom(f"{method}: its turn did not come in time") from None
        else:
            await connection.turns.acquire()
        return connection

    async def connection(self, target: Address, timeout_s: float) -> NodeConnection:
        """For more than one answer; raises RpcNotSent and WrongCluster."""
        return await self._connection(asyncio.get_running_loop().time() + timeout_s, target, "a stream")

    async def _connection(self, deadline: float, target: Address, method: str) -> NodeConnection:
        try:
            async with asyncio.timeout_at(deadline):
                return await self.connections.get(target)
        except TimeoutError:
            raise RpcNotSent(f"{method}: no connection to {target} in time") from None

    async def status(self, target: Address, timeout_s: float) -> Status:
        """A node's own view, of any cluster while ours is not known; raises as `call`."""
        found = await self.call(target, "status", {}, timeout_s)
        if not isinstance(found, dict):
            raise MalformedMessage(f"{target} answered with something that is no status", what="status")
        return found

    def keep_open(self, target: Address) -> Callable[[], None]:
        """See Connections.keep_open."""
        return self.connections.keep_open(target)

    def descriptors(self) -> list[int]:
        return self.connections.descriptors()

    async def stop(self) -> None:
        await self.connections.stop()


@asynccontextmanager
async def open_caller(tls: TlsSettings | None = None) -> AsyncIterator[ClusterCaller]:
    caller = ClusterCaller(tls)
    try:
        yield caller
    finally:
        await caller.stop()
