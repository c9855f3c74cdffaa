"""The network of the loopback cluster: one TCP proxy in front of each node. Loop thread of the keeper.

Peers dial a node at its proxy's address. Who dials is read from the handshake's first frame, which names the
dialler's advertised address. A cut holds the bytes of one direction until it is healed, as TCP does with lost
packets; a connection opened across a cut is held before the node sees it. A delay holds each piece.
What it cannot do: lose, reorder or duplicate packets, fill a node's own send queue with unacknowledged packets at
once (the proxy takes some), tell peers apart that use TLS, or let a one-way cut starve the other direction of
acknowledgements.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dqlite_py.errors import Error
from dqlite_py.wire.frames import FrameDecoder, FrameType
from dqlite_py.wire.handshake import Hello, decode_handshake
from jepsen.cluster.keeper.links import Links

HOST: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 64 * 1024
_CHUNKS_HELD_MAX: Final = 32
_HELLO_S: Final = 3.0
# Longer than a dialler waits for its handshake.
_OPENING_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ports:
    """host:port of the node's own socket, and of its proxy (what others dial)."""

    listen: str
    advertise: str


class Proxies:
    """Call `start` once; `ports` holds each node's addresses from then on."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._servers: list[asyncio.Server] = []
        self._reserved: list[socket.socket] = []
        self._names: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.ports: Mapping[str, Ports] = {}

    async def start(self, names: Sequence[str]) -> None:
        ports: dict[str, Ports] = {}
        for name in names:
            target = self._reserve()
            server = await asyncio.start_server(self._accepted(name, target), HOST, 0)
            self._servers.append(server)
            advertise = f"{HOST}:{server.sockets[0].getsockname()[1]}"
            self._names[advertise] = name
            ports[name] = Ports(f"{HOST}:{target}", advertise)
        self.ports = ports

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for reserved in self._reserved:
            reserved.close()

    def _reserve(self) -> int:
        """A port that nobody else is given: bound and not listening, it can still be shared by SO_REUSEADDR."""
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((HOST, 0))
        self._reserved.append(reserved)
        return int(reserved.getsockname()[1])

    def _accepted(self, name: str, port: int) -> _Callback:
        return _Callback(self, name, port)

    async def serve(
        self, name: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection to `name`, from its first byte to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(name, port, reader, writer)
        except (OSError, TimeoutError, Error):
            pass  # either side is gone, or it was no peer: the connection ends
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(
        self, name: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(_HELLO_S):
            source, first = await self._read_hello(reader)
        async with asyncio.timeout(_OPENING_S):
            # No TCP connection is established while either direction is cut.
            while self._links.is_cut(source, name) or self._links.is_cut(name, source):
                await self._links.wait_open(source, name)
                await self._links.wait_open(name, source)
            node_reader, node_writer = await asyncio.open_connection(HOST, port, limit=_CHUNK_BYTES)
        try:
            towards = _Pipe(self._links, source, name, reader, node_writer, first)
            back = _Pipe(self._links, name, source, node_reader, writer, b"")
            readers = [asyncio.ensure_future(pipe.read()) for pipe in (towards, back)]
            writers = [asyncio.ensure_future(pipe.write()) for pipe in (towards, back)]
            try:
                # A writer ends when it has passed on an end or met one: then the connection is over.
                await asyncio.wait(writers, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for work in (*readers, *writers):
                    work.cancel()
                await asyncio.gather(*readers, *writers, return_exceptions=True)
        finally:
            node_writer.transport.abort()

    async def _read_hello(self, reader: asyncio.StreamReader) -> tuple[str | None, bytes]:
        """The dialler's name (None: no node of this cluster) and all bytes read so far."""
        decoder = FrameDecoder()
        read = bytearray()
        while (message := decoder.next_message()) is None:
            data = await reader.read(_CHUNK_BYTES)
            if not data:
                raise ConnectionError("closed before its handshake")
            read += data
            decoder.feed(data)
        hello = decode_handshake(message.body) if message.type is FrameType.HELLO else None
        name = self._names.get(hello.address) if isinstance(hello, Hello) else None
        return name, bytes(read)


class _Callback:
    """asyncio's client_connected_cb for one node."""

    def __init__(self, proxies: Proxies, name: str, port: int) -> None:
        self._proxies, self._name, self._port = proxies, name, port

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._proxies.serve(self._name, self._port, reader, writer)


class _Pipe:
    """One direction of a connection: pieces wait for their time and for the link."""

    def __init__(
        self,
        links: Links,
        source: str | None,
        destination: str | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        first: bytes,
    ) -> None:
        self._links, self._source, self._destination = links, source, destination
        self._reader, self._writer = reader, writer
        self._first = first
        self._held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_HELD_MAX)

    async def read(self) -> None:
        """Take pieces until the end, which is an empty piece; a full queue stops reading."""
        loop = asyncio.get_running_loop()
        data = self._first
        if not data:
            data = await self._take()
        while True:
            await self._held.put((loop.time() + self._links.delay_s, data))
            if not data:
                return
            data = await self._take()

    async def _take(self) -> bytes:
        with contextlib.suppress(OSError):  # a reset is an end
            return await self._reader.read(_CHUNK_BYTES)
        return b""

    async def write(self) -> None:
        """Pass pieces on in order, then the end."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                due, data = await self._held.get()
                if (left_s := due - loop.time()) > 0:
                    await asyncio.sleep(left_s)
                await self._links.wait_open(self._source, self._destination)
                if not data:
                    return
                self._writer.write(data)
                await self._writer.drain()
        except OSError:
            return  # the receiver is gone: the end of the connection as well
