"""Connecting: name to addresses, socket, handshake, each in its time. Never blocks its thread, the loop's."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any, Final

from dqlite_py.errors import Error, InterfaceError
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.connection import (
    Connection,
    ConnectionOwner,
    HandshakeRefused,
    TransportTiming,
    make_hello,
)
from dqlite_py.raft.tls import TlsContexts, TlsLayer
from dqlite_py.wire.address import split_address
from dqlite_py.wire.handshake import Hello, Purpose, Refusal

_ADDRESSES_TRIED_MAX: Final = 4


class DialFailed(Exception):
    """No connection; nothing was sent over it. `reason` when a handshake was refused."""

    def __init__(self, address: Address, message: str, reason: Refusal | None = None) -> None:
        super().__init__(f"{address}: {message}")
        self.address = address
        self.message = message
        self.reason = reason


class Backoff:
    """Waits that double up to a maximum, each with jitter of half its length."""

    def __init__(self, timing: TransportTiming, rng: random.Random) -> None:
        self._min = timing.reconnect_min_ms / 1000
        self._max = timing.reconnect_max_ms / 1000
        self._random = rng
        self._next = self._min

    def reset(self) -> None:
        self._next = self._min

    def next_s(self) -> float:
        wait = self._next
        self._next = min(self._max, wait * 2)
        return wait * (0.5 + self._random.random() / 2)


class Dialer:
    """Opens connections for one transport."""

    def __init__(self, owner: ConnectionOwner, timing: TransportTiming, tls: TlsContexts | None) -> None:
        self._owner = owner
        self._timing = timing
        self._tls = tls
        self._resolving: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}

    async def dial(self, address: Address, purpose: Purpose, target: NodeId = NodeId(0)) -> Connection:
        """An established connection; raises DialFailed within connect_ms + handshake_ms.

        When the caller is cancelled, the connection is closed.
        """
        try:
            host, port = split_address(address)
            hello = make_hello(
                self._owner.local_identity(), self._owner.advertised_address(), purpose, target
            )
            async with asyncio.timeout(self._timing.connect_ms / 1000):
                connection, transport = await self._connect(host, port, hello)
        except TimeoutError:
            raise DialFailed(address, f"no connection within {self._timing.connect_ms:.0f} ms") from None
        except (OSError, Error) as error:
            raise DialFailed(address, str(error)) from None
        try:
            async with asyncio.timeout(self._timing.handshake_ms / 1000):
                await asyncio.shield(connection.ready)
        except TimeoutError:
            connection.abort("no handshake in time")
            transport.abort()
            raise DialFailed(address, f"no handshake within {self._timing.handshake_ms:.0f} ms") from None
        except HandshakeRefused as refusal:
            raise DialFailed(address, refusal.message, refusal.reason) from None
        except asyncio.CancelledError:
            connection.abort("not needed any more")
            transport.abort()  # with TLS the connection may not have it yet
            raise
        return connection

    async def _connect(self, host: str, port: int, hello: Hello) -> tuple[Connection, asyncio.Transport]:
        last_error: OSError = OSError(f"no address found for {host}")
        for _, _, _, _, where in (await self._resolve(host, port))[:_ADDRESSES_TRIED_MAX]:
            connection = Connection(self._owner, hello)

            def protocol(connection: Connection = connection) -> asyncio.Protocol:
                if self._tls is None:
                    return connection
                return TlsLayer(self._tls.client, connection, connection.abort, server_hostname=host)

            try:
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_connection(protocol, where[0], where[1])
            except OSError as error:
                last_error = error
            except asyncio.CancelledError:
                connection.outbox.clear()  # uvloop closes a socket that was there already, and tells nobody
                raise
            else:
                return connection, transport
        raise last_error

    async def _resolve(self, host: str, port: int) -> list[Any]:
        """One look-up per name at a time: a hanging resolver holds one thread, not one per attempt."""
        loop = asyncio.get_running_loop()
        known = self._resolving.get((host, port))
        if known is None:
            task = loop.create_task(_look_up(loop, host, port))
            known = self._resolving[host, port] = task
            task.add_done_callback(lambda _: self._resolving.pop((host, port), None))
        return await asyncio.shield(known)

    async def stop(self) -> None:
        """Give up look-ups under way."""
        waiting = list(self._resolving.values())
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _look_up(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
    try:
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise InterfaceError(f"host name {host!r}: {error}") from None
