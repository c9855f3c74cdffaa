"""One connection to a dqlite server: frames in and out, one request at a time. Loop thread.

Holds one frame and what one look at the socket brings; while nobody takes frames, the server waits.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast

from dqlite_py.client.stock.failures import Doubtful
from dqlite_py.errors import InterfaceError
from dqlite_py.limits import CONNECT_TIMEOUT_MS, DQLITE_RESPONSE_BYTES_MAX
from dqlite_py.model import Address
from dqlite_py.wire.address import split_address
from dqlite_py.wire.dqlite.frames import Frame, FrameReader, Version, encode_frame, encode_handshake
from dqlite_py.wire.dqlite.requests import Request, RequestType, encode_request
from dqlite_py.wire.dqlite.responses import Empty, Response, Server, decode_response
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.violations import ProtocolViolation

_INTERRUPT: Final = Request(RequestType.INTERRUPT, (0,))
_LEADER: Final = Request(RequestType.LEADER, (0,))


class Unreachable(Exception):
    """No connection: nothing was sent."""


class StockConnection(asyncio.Protocol):
    """`address`: as it was dialled. `database`: the one that is open on it, "" before."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.database = ""
        self.frame_bytes = 0  # of the last answer
        self._reader = FrameReader(DQLITE_RESPONSE_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._lost: str | None = None
        self._is_paused = False

    @property
    def is_usable(self) -> bool:
        """Open, and nothing came that nobody asked for."""
        return self._lost is None and not self._reader.buffered_bytes

    @property
    def fileno(self) -> int:
        """-1 without a socket."""
        found = None if self._transport is None else self._transport.get_extra_info("socket")
        return -1 if found is None else int(found.fileno())

    async def ask(self, request: Request) -> Response:
        """Send and receive. Raises Doubtful when the connection breaks or makes no sense; then it is closed."""
        self.send(request)
        return await self.receive()

    def send(self, request: Request) -> None:
        self.send_frame(encode_request(request))

    def send_frame(self, frame: Frame) -> None:
        if self._transport is None or self._lost is not None:
            raise Doubtful(self._lost or "not connected")
        self._transport.write(encode_frame(frame))

    async def receive(self) -> Response:
        frame = await self.receive_frame()
        try:
            return decode_response(frame)
        except ProtocolViolation as violation:
            self.abort(f"it answered nonsense: {violation.message}")
            raise Doubtful(self._lost or "") from None

    async def receive_frame(self) -> Frame:
        try:
            while (frame := self._reader.next_frame()) is None:
                if self._lost is not None:
                    raise Doubtful(self._lost)
                await self._more()
        except ProtocolViolation as violation:
            self.abort(f"it answered nonsense: {violation.message}")
            raise Doubtful(self._lost or "") from None
        if not self._reader.holds_frame:
            self._read_on()  # so that its end is seen while nobody waits
        self.frame_bytes = len(frame.body)
        return frame

    async def leader(self) -> Server:
        """Who leads, by this server."""
        found = await self.ask(_LEADER)
        if not isinstance(found, Server):
            self.abort("it does not say who leads")
            raise Doubtful(self._lost or "")
        return found

    async def end_rows(self) -> None:
        """Of a result that goes on: ask for its end, and read until the connection serves again."""
        self.send(_INTERRUPT)
        while not isinstance(await self.receive(), Empty):
            pass

    def abort(self, reason: str) -> None:
        """Close without waiting. Idempotent."""
        if self._lost is None:
            self._lost = f"{self.address}: {reason}"
            if self._transport is not None:
                self._transport.abort()
            self._wake()

    async def _more(self) -> None:
        self._read_on()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _read_on(self) -> None:
        if self._is_paused and self._transport is not None and self._lost is None:
            self._is_paused = False
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(encode_handshake(Version.V1))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._reader.holds_frame and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost is None:
            self._lost = f"{self.address}: {exc or 'the server closed the connection'}"
        self._wake()


async def dial(address: Address, context: ssl.SSLContext | None) -> StockConnection:
    """A connection that has greeted; raises Unreachable."""
    loop = asyncio.get_running_loop()
    try:
        host, port = split_address(address)
        async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
            _, connection = await loop.create_connection(
                lambda: StockConnection(address),
                host,
                port,
                ssl=context,
                server_hostname=host if context is not None else None,
            )
    except TimeoutError:
        raise Unreachable(f"{address}: no connection within {CONNECT_TIMEOUT_MS} ms") from None
    except (OSError, InterfaceError, UnicodeError) as error:
        raise Unreachable(f"{address}: {error}") from None
    return connection


def rows(connection: StockConnection, response: Response) -> RowsBatch:
    """`response` as rows; raises Doubtful for another."""
    if isinstance(response, RowsBatch):
        return response
    connection.abort(f"{type(response).__name__} where rows were asked for")
    raise Doubtful(f"{connection.address}: {type(response).__name__} where rows were asked for")
