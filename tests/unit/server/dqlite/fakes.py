"""A connection of dqlite's protocol by itself: a transport that notes what is done to it, a node that answers late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from dqlite_py.server.dqlite.connection import Connection
from dqlite_py.server.dqlite.server import DqliteServer
from dqlite_py.server.dqlite.settings import ServerSettings
from dqlite_py.wire.dqlite.frames import FrameReader, Version, encode_frame, encode_handshake
from dqlite_py.wire.dqlite.requests import Request, RequestType, encode_request
from dqlite_py.wire.dqlite.responses import Database, Response, decode_response


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_reading_paused = False
        self.is_closed = False
        self.is_aborted = False

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class FakeGateway:
    """OPEN is answered when `opened` is."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def opening(self, _database: str, _deadline: Any) -> Callable[[], Coroutine[Any, Any, None]]:
        async def wait() -> None:
            await self.opened

        return wait


class FakeView:
    is_ready_leader = True


class FakeParts:
    """So much of a node as a connection meets in these tests."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.gateway: Any = FakeGateway()
        self.view: Any = FakeView()
        self.dumps = self.core = None
        self.transport = self

    def register_protocol(self, _predicate: Any, factory: Any) -> None:
        self.make = factory


class Client:
    def __init__(self, server: DqliteServer, *, greets: bool = True) -> None:
        self.transport = FakeTransport()
        self.connection = Connection(server)
        self.connection.connection_made(self.transport)
        self._reader = FrameReader(1 << 20)
        if greets:
            self.connection.data_received(encode_handshake(Version.V1))

    def send(self, kind: RequestType, *fields: Any) -> None:
        self.connection.data_received(request(kind, *fields))

    def answers(self) -> list[Response]:
        self._reader.feed(bytes(self.transport.written))
        self.transport.written.clear()
        found = []
        while (frame := self._reader.next_frame()) is not None:
            found.append(decode_response(frame))
        return found


def request(kind: RequestType, *fields: Any) -> bytes:
    return encode_frame(encode_request(Request(kind, fields)))


async def turns(count: int = 5) -> None:
    """What is due on the loop happens."""
    for _ in range(count):
        await asyncio.sleep(0)


def make_server(**settings: Any) -> tuple[DqliteServer, Any]:
    parts: Any = FakeParts()
    return DqliteServer(parts, ServerSettings(**settings)), parts


async def client_of_a_database(write: Any) -> Client:
    """`write`: what a write does, in the place of LoopGateway.write."""
    server, parts = make_server()
    server.gateway.write = write  # type: ignore[method-assign]
    parts.gateway.opened.set_result(None)
    client = Client(server)
    client.send(RequestType.OPEN, "app", 0, "")
    await turns()
    assert client.answers() == [Database(0)]
    return client
