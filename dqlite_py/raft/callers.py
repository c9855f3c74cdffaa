"""Connections for requests to an address, whoever is there: made on demand, kept while used. Loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dqlite_py.model import Address, NodeId
from dqlite_py.raft.connection import Connection
from dqlite_py.raft.dialer import Dialer, DialFailed
from dqlite_py.wire.handshake import Purpose


class AddressCallers:
    """At most one connection, or attempt, per address."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._tasks: dict[Address, asyncio.Task[Connection]] = {}

    async def connection(self, address: Address) -> Connection:
        """An open connection; raises DialFailed. A cancelled caller leaves the attempt to the next one."""
        task = self._tasks.get(address)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._dialer.dial(address, Purpose.CLIENT))
            self._tasks[address] = task
            task.add_done_callback(lambda done: self._dialled(address, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise DialFailed(address, "the transport is stopping") from None
            raise

    async def prove(self, address: Address, node_id: NodeId) -> Address:
        """Dial `address` and demand that this node of our cluster answers; what it advertises. Raises DialFailed."""
        connection = await self._dialer.dial(address, Purpose.CLIENT, node_id)
        advertised, is_verified = connection.peer_address, connection.verified
        connection.abort("asked who is there")
        if not is_verified:
            raise DialFailed(address, f"node {node_id} belongs to no cluster yet")
        return advertised

    def keep_open(self, address: Address) -> Callable[[], None]:
        """Do not close the connection to `address` for want of calls, until the returned function is called (once)."""
        task = self._tasks.get(address)
        if task is None or not task.done() or task.cancelled() or task.exception():
            return lambda: None
        connection = task.result()
        connection.keepers += 1

        def let_go() -> None:
            connection.keepers -= 1

        return let_go

    def closed(self, connection: Connection) -> None:
        """A connection ended: the next call makes a new one."""
        for address, task in list(self._tasks.items()):
            if task.done() and not task.cancelled() and not task.exception() and task.result() is connection:
                del self._tasks[address]

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _dialled(self, address: Address, task: asyncio.Task[Connection]) -> None:
        usable = not task.cancelled() and task.exception() is None and task.result().is_open
        if not usable and self._tasks.get(address) is task:
            del self._tasks[address]
