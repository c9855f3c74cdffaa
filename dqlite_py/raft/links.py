"""Outgoing connections that are kept up: one per peer; and searches for nodes that moved. Loop thread."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from dqlite_py.logs import event
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.connection import Connection, TransportTiming
from dqlite_py.raft.dialer import Backoff, Dialer, DialFailed
from dqlite_py.wire.handshake import Purpose, Refusal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer as the transport sees it. `wrong_cluster`: it answers, but belongs to another cluster."""

    node_id: NodeId
    address: Address
    learned_address: Address | None
    connected: bool
    last_error: str
    wrong_cluster: bool
    source_id: str
    options_digest: bytes
    queued_bytes: int


class PeerLink:
    """Keeps one outgoing connection to a peer, trying its configured and its learned address in turn."""

    def __init__(
        self,
        node_id: NodeId,
        address: Address,
        dialer: Dialer,
        timing: TransportTiming,
        rng: random.Random,
        changed: Callable[[NodeId, bool], None],
    ) -> None:
        self.node_id = node_id
        self.address = address
        self.learned_address: Address | None = None
        self.connection: Connection | None = None
        self.last_failure: DialFailed | None = None
        self._dialer = dialer
        self._timing = timing
        self._backoff = Backoff(timing, rng)
        self._changed = changed
        self._attempts = 0
        self._nudged = asyncio.Event()
        self._waiters: dict[asyncio.Future[Connection], None] = {}  # in the order of their arrival
        self._task = asyncio.get_running_loop().create_task(self._keep_up(), name=f"link to {node_id}")

    @property
    def open_connection(self) -> Connection | None:
        connection = self.connection
        return connection if connection is not None and connection.is_open else None

    def status(self) -> PeerStatus:
        connection = self.open_connection
        remote = connection.remote if connection is not None else None
        failure = self.last_failure
        return PeerStatus(
            self.node_id,
            self.address,
            self.learned_address,
            connection is not None,
            str(failure) if failure is not None else "",
            failure is not None and failure.reason is Refusal.WRONG_CLUSTER,
            remote.source_id if remote is not None else "",
            remote.options_digest if remote is not None else b"",
            connection.queued_bytes if connection is not None else 0,
        )

    def set_address(self, address: Address) -> None:
        """The configuration names another address: the connection to the old one is given up."""
        if address != self.address:
            self.address = address
            self._attempts = 0
            if self.connection is not None:
                self.connection.abort("the peer's address changed")
            self.nudge()

    def learned(self, address: Address) -> None:
        if address != self.learned_address:
            self.learned_address = address
            if self.open_connection is None and address != self.address:
                self._attempts = 1
                self.nudge()

    def nudge(self) -> None:
        """Try now instead of at the end of the wait."""
        self._backoff.reset()
        self._nudged.set()

    async def wait_connection(self) -> Connection:
        """The connection, or the failure (DialFailed) of the next attempt."""
        connection = self.open_connection
        if connection is not None:
            return connection
        future: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters[future] = None
        self._nudged.set()
        try:
            return await future
        finally:
            self._waiters.pop(future, None)
            if future.done() and not future.cancelled():
                future.exception()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.connection is not None:
            self.connection.abort("not a peer any more")
        self._tell_waiters(DialFailed(self.address, "not a peer any more"))

    async def _keep_up(self) -> None:
        while True:
            address = self._next_address()
            try:
                connection = await self._dialer.dial(address, Purpose.PEER, self.node_id)
            except DialFailed as failure:
                self._failed(failure)
            else:
                await self._use(connection)
            await self._pause()

    def _next_address(self) -> Address:
        use_learned = self._attempts % 2 == 1 and self.learned_address is not None
        self._attempts += 1
        return self.learned_address if use_learned and self.learned_address else self.address

    def _failed(self, failure: DialFailed) -> None:
        known = self.last_failure
        if known is None or str(known) != str(failure):
            level = refusal_level(failure.reason)
            event(log, level, "no connection to a node", node=self.node_id, reason=failure)
        self.last_failure = failure
        self._tell_waiters(failure)

    async def _use(self, connection: Connection) -> None:
        began = asyncio.get_running_loop().time()
        self.connection = connection
        self.last_failure = None
        self._tell_waiters(connection)
        try:
            if connection.is_open:
                self._changed(self.node_id, True)
                await connection.closed.wait()
                self._changed(self.node_id, False)
        except asyncio.CancelledError:
            connection.abort("the transport stops")
            raise
        self.connection = None
        self._attempts = 0
        event(
            log,
            logging.INFO,
            "connection to a node is gone",
            node=self.node_id,
            reason=connection.close_reason,
        )
        if asyncio.get_running_loop().time() - began > self._timing.reconnect_max_ms / 1000:
            self._backoff.reset()

    async def _pause(self) -> None:
        """Wait for the next attempt; a nudge shortens it to the minimum."""
        self._nudged.clear()
        wait_s = self._backoff.next_s()
        least_s = min(wait_s, self._timing.reconnect_min_ms / 1000)
        await asyncio.sleep(least_s)
        try:
            async with asyncio.timeout(wait_s - least_s):
                await self._nudged.wait()
        except TimeoutError:
            return

    def _tell_waiters(self, result: Connection | DialFailed) -> None:
        for future in self._waiters:
            if future.done():
                continue
            if isinstance(result, DialFailed):
                future.set_exception(result)
            else:
                future.set_result(result)


def refusal_level(reason: Refusal | None) -> int:
    """How loudly to log a failed connection; a node that is just joining is no trouble."""
    levels = {Refusal.WRONG_CLUSTER: logging.ERROR, Refusal.NO_CLUSTER: logging.DEBUG}
    return logging.WARNING if reason is None else levels.get(reason, logging.WARNING)


class Search:
    """Asks addresses who is there until each has given a node of our cluster; used after address changes."""

    def __init__(
        self,
        dialer: Dialer,
        timing: TransportTiming,
        rng: random.Random,
        found: Callable[[NodeId, Address], None],
    ) -> None:
        self._dialer = dialer
        self._timing = timing
        self._random = rng
        self._found = found
        self._tasks: dict[Address, asyncio.Task[None]] = {}

    def set_addresses(self, addresses: Collection[Address]) -> None:
        for address in list(self._tasks):
            if address not in addresses:
                self._tasks.pop(address).cancel()
        for address in addresses:
            if address in self._tasks:
                continue
            task = asyncio.get_running_loop().create_task(self._ask(address), name=f"search {address}")
            self._tasks[address] = task

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, address: Address) -> None:
        backoff = Backoff(self._timing, self._random)
        while True:
            try:
                connection = await self._dialer.dial(address, Purpose.CLIENT)
            except DialFailed as failure:
                if failure.reason is Refusal.OWN_ID:
                    return
                event(log, logging.INFO, "a node was searched and not found", reason=failure)
            else:
                peer_id, verified = connection.peer_id, connection.verified
                connection.abort("asked who is there")
                if verified:
                    self._found(peer_id, address)
                    return
            await asyncio.sleep(backoff.next_s())
