"""A program's connections to the nodes of a cluster: dialled when they are needed, kept while they are. Loop thread.

At most one per address; all calls to a node share it. One that is silent is given up, one that is not used is closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

from dqlite_py.client.stock.connection import Unreachable, dial
from dqlite_py.client.stock.failures import Doubtful
from dqlite_py.client.wire import NodeConnection, NotExtended, StockAnswer
from dqlite_py.config import TlsSettings
from dqlite_py.errors import InterfaceError, WrongCluster
from dqlite_py.limits import CONNECT_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, IDLE_TIMEOUT_MS
from dqlite_py.model import Address
from dqlite_py.tlscontexts import client_context
from dqlite_py.wire.address import split_address
from dqlite_py.wire.dqlite.extension import Extended
from dqlite_py.wire.rpc import RpcNotSent

UNUSED_S: Final = 30.0  # a connection without calls is kept for this
_IDLE_S: Final = IDLE_TIMEOUT_MS / 1000
_PING_S: Final = _IDLE_S / 4
SILENCE_S: Final = 1.0  # a server that has said nothing to the opening by then may be of dqlite itself
_PROBE_S: Final = 0.4
_LATE_S: Final = 0.2  # for an opening that was on its way longer than a later question
_STEP_S: Final = 0.25
_STOP_WAIT_S: Final = 0.25
_ADDRESSES_TRIED_MAX: Final = 4


class Connections:
    """`cluster_id`: of the nodes to speak to; empty while it is not known, then the first node's."""

    def __init__(self, tls: TlsSettings | None) -> None:
        """Raises ssl.SSLError or OSError for unusable files."""
        self.cluster_id = b""
        self._tls = None if tls is None else client_context(tls)
        self._tasks: dict[Address, asyncio.Task[NodeConnection]] = {}
        self._sockets: dict[NodeConnection, None] = {}  # until their sockets are gone
        self._resolving: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}
        self._housekeeping: asyncio.TimerHandle | None = None
        self._housekeeping_due = 0.0
        self._is_stopped = False

    async def get(self, address: Address) -> NodeConnection:
        """An open connection; raises WrongCluster, NotExtended or RpcNotSent. A cancelled caller leaves the attempt to
        the next one."""
        task = self._tasks.get(address)
        if task is None:
            if self._is_stopped:
                raise RpcNotSent(f"{address}: the connections are closed")
            task = asyncio.get_running_loop().create_task(self._dial(address))
            self._tasks[address] = task
            task.add_done_callback(lambda done: self._dialled(address, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and (caller is None or not caller.cancelling()):
                raise RpcNotSent(f"{address}: the connections are being closed") from None
            raise

    def open_to(self, address: Address) -> NodeConnection | None:
        """The connection to `address`, if there is one."""
        task = self._tasks.get(address)
        if task is None or not task.done() or task.cancelled() or task.exception():
            return None
        return task.result()

    def keep_open(self, address: Address) -> Callable[[], None]:
        """Do not close the connection to `address` for want of calls, until the returned function is called (once)."""
        connection = self.open_to(address)
        if connection is None:
            return lambda: None
        connection.keepers += 1

        def let_go() -> None:
            connection.keepers -= 1

        return let_go

    def descriptors(self) -> list[int]:
        """Of open sockets."""
        return [number for one in self._sockets if (number := one.fileno) >= 0]

    async def stop(self) -> None:
        """Close everything and wait for it; nothing is dialled any more."""
        self._is_stopped = True
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        tasks, waiting = list(self._tasks.values()), list(self._resolving.values())
        for task in tasks:
            task.cancel()
        for future in waiting:
            future.cancel()
        await asyncio.gather(*tasks, *waiting, return_exceptions=True)
        for connection in list(self._sockets):
            connection.close("the connections are closed")
        try:
            async with asyncio.timeout(_STOP_WAIT_S):
                for connection in list(self._sockets):
                    await connection.lost.wait()
        except TimeoutError:
            for connection in list(self._sockets):
                connection.abort("closed")
                await connection.lost.wait()

    # -- dialling

    async def _dial(self, address: Address) -> NodeConnection:
        """Within CONNECT_TIMEOUT_MS and HANDSHAKE_TIMEOUT_MS."""
        try:
            host, port = split_address(address)
            async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
                connection = await self._connect(host, port)
        except TimeoutError:
            raise RpcNotSent(f"{address}: no connection within {CONNECT_TIMEOUT_MS} ms") from None
        except ssl.SSLError as error:
            raise RpcNotSent(f"{address}: {_tls_text(error)}") from None
        except (OSError, InterfaceError) as error:
            raise RpcNotSent(f"{address}: {error}") from None
        try:
            extended = await self._opened(address, connection)
        except TimeoutError:
            connection.abort("no answer to the opening in time")
            raise NotExtended(f"{address}: no handshake within {HANDSHAKE_TIMEOUT_MS} ms") from None
        except RpcNotSent as error:
            raise type(error)(f"{address}: {error}") from None
        except asyncio.CancelledError:
            connection.abort("not needed any more")
            raise
        if not self.cluster_id:
            self.cluster_id = extended.cluster_id
        elif extended.cluster_id != self.cluster_id:  # it was learned meanwhile
            connection.close("a node of another cluster")
            raise WrongCluster(
                f"the node at {address} belongs to cluster {extended.cluster_id.hex()}, "
                f"the others to {self.cluster_id.hex()}"
            )
        return connection

    async def _opened(self, address: Address, connection: NodeConnection) -> Extended:
        """The node's answer to the opening; raises as `get`, and TimeoutError."""
        done, _ = await asyncio.wait([connection.opened], timeout=SILENCE_S)
        if not done and await self._is_stock(address, connection):
            connection.abort("a server of dqlite itself")
            raise StockAnswer("a server of dqlite itself: it says who leads, and nothing to the extension")
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_MS / 1000 - SILENCE_S):
            return await asyncio.shield(connection.opened)

    async def _is_stock(self, address: Address, connection: NodeConnection) -> bool:
        """Whether a server that says nothing to the extension answers dqlite's requests: a node of ours that hangs
        says nothing to either, and one that has recovered has answered the opening before."""
        try:
            async with asyncio.timeout(_PROBE_S):
                probe = await dial(address, self._tls)
                try:
                    await probe.leader()
                finally:
                    probe.abort("it was a question")
        except (Unreachable, Doubtful, TimeoutError):
            return False
        done, _ = await asyncio.wait([connection.opened], timeout=_LATE_S)
        return not done

    async def _connect(self, host: str, port: int) -> NodeConnection:
        last_error: OSError = OSError(f"no address found for {host}")
        loop = asyncio.get_running_loop()
        name = None if self._tls is None else host
        for _, _, _, _, where in (await self._resolve(host, port))[:_ADDRESSES_TRIED_MAX]:
            connection = NodeConnection(self.cluster_id)
            try:
                await loop.create_connection(
                    lambda made=connection: made,
                    where[0],
                    where[1],
                    ssl=self._tls,
                    server_hostname=name,
                )
            except OSError as error:
                last_error = error
            else:
                self._sockets[connection] = None
                if self._housekeeping is None and not self._is_stopped:
                    self._plan_housekeeping()
                return connection
        raise last_error

    async def _resolve(self, host: str, port: int) -> list[Any]:
        """One look-up per name at a time: a hanging resolver holds one thread, not one per attempt."""
        with suppress(ValueError):
            ip_address(host)
            return [(None, None, None, None, (host, port))]
        loop = asyncio.get_running_loop()
        known = self._resolving.get((host, port))
        if known is None:
            task = loop.create_task(_look_up(loop, host, port))
            known = self._resolving[host, port] = task
            task.add_done_callback(lambda _: self._resolving.pop((host, port), None))
        return await asyncio.shield(known)

    def _dialled(self, address: Address, task: asyncio.Task[NodeConnection]) -> None:
        if task.cancelled() or task.exception() is not None or not task.result().is_open:
            if self._tasks.get(address) is task:
                del self._tasks[address]
            return
        connection = task.result()

        def closed() -> None:
            """The next call makes a new one."""
            if self._tasks.get(address) is task:
                del self._tasks[address]

        connection.on_closed = closed

    # -- time

    def _plan_housekeeping(self) -> None:
        loop = asyncio.get_running_loop()
        self._housekeeping_due = loop.time() + _STEP_S
        self._housekeeping = loop.call_later(_STEP_S, self._housekeep)

    def _housekeep(self) -> None:
        now = asyncio.get_running_loop().time()
        # After a stall of the loop, what nodes sent meanwhile may still be unread: nobody is judged now.
        stalled = now - self._housekeeping_due > _IDLE_S / 4
        self._housekeeping = None
        for connection in list(self._sockets):
            if connection.lost.is_set():
                del self._sockets[connection]
            elif not stalled:
                _check_idle(connection, now)
        if self._sockets:
            self._plan_housekeeping()


def _check_idle(connection: NodeConnection, now: float) -> None:
    connection.note_activity(now)
    if not connection.is_open:
        if now - connection.heard_at > _IDLE_S:
            connection.abort("closed")
    elif now - connection.heard_at > _IDLE_S:
        connection.abort(f"nothing received for {_IDLE_S * 1000:.0f} ms")
    elif not connection.call_count and not connection.keepers and now - connection.used_at > UNUSED_S:
        connection.close("not used any more")
    elif now - min(connection.heard_at, connection.sent_at) > _PING_S:
        connection.ping()


def _tls_text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS handshake failed: {error.verify_message}"
    return f"TLS handshake failed: {error.reason}; is the node configured without TLS?"


async def _look_up(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
    try:
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise InterfaceError(f"host name {host!r}: {error}") from None
