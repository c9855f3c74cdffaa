"""A client of an extended connection that says what a test wants, and the node, with made-up methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dqlite_py.errors import OperationalError, from_wire
from dqlite_py.node.programs import CallContext, Caller, ProgramMethods
from dqlite_py.server.extended import ExtendedServer
from dqlite_py.wire.dqlite import extension as ext
from dqlite_py.wire.dqlite.frames import FrameReader
from dqlite_py.wire.rpc import pack_value, unpack_value
from tests.support.wire import CLUSTER, WAIT_S, Station, stations

OPENING = ext.encode_opening(CLUSTER)


class Program:
    """A client that says what a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames = FrameReader(ext.FRAME_BYTES_MAX)

    async def send(self, *messages: bytes | ext.Message) -> None:
        for message in messages:
            self._writer.write(message if isinstance(message, bytes) else ext.encode_message(message))
        await self._writer.drain()

    async def hear(self) -> Any:
        """The next message; None at the end."""
        async with asyncio.timeout(WAIT_S):
            while (frame := self._frames.next_frame()) is None:
                try:
                    data = await self._reader.read(65_536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._frames.feed(data)
        return ext.decode_from_node(frame)

    async def answer(self) -> Any:
        """The next answer's value, its error raised."""
        message = await self.hear()
        assert isinstance(message, ext.Answer)
        value = unpack_value(message.body)
        if message.kind is ext.AnswerKind.ERROR:
            raise from_wire(value)
        return value

    async def failure(self) -> ext.Failure:
        """The refusal, which is the last word."""
        message = await self.hear()
        assert isinstance(message, ext.Failure)
        assert await self.hear() is None
        return message

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return


class Node:
    """A server on a transport, with methods that wait for the test."""

    def __init__(self, cluster: bytes = CLUSTER, **options: Any) -> None:
        self.station = Station(5, cluster=cluster)
        self.methods = ProgramMethods()
        self.server = ExtendedServer(self.methods, self.station.transport.local_identity, **options)
        self.server.serve_on(self.station.transport)
        self.gate = asyncio.Event()
        self.events: list[Any] = []
        self.methods.add({"status": self._echo, "echo": self._echo, "last": self._wait, "fail": self._fail})
        self.methods.add({"wait": self._wait, "count": self._count}, ends_when_cancelled=True)
        self.methods.watch_callers(self._gone)

    async def _echo(self, _context: CallContext, body: Any) -> Any:
        return body

    async def _fail(self, _context: CallContext, body: Any) -> Any:
        if body is not None:
            raise ValueError("broken")
        raise OperationalError("cannot", code=5, why="so")

    async def _wait(self, _context: CallContext, body: Any) -> Any:
        self.events.append(("begun", body))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.events.append(("cancelled", body))
            raise
        self.events.append(("done", body))
        return body

    async def _count(self, context: CallContext, body: Any) -> Any:
        for number in range(body):
            await context.more(number)
            self.events.append(number)
        return "over"

    def _gone(self, _caller: Caller) -> None:
        self.events.append("gone")

    async def program(self, opening: bytes = OPENING) -> Program:
        host, _, port = self.station.address.rpartition(":")
        made = Program(*await asyncio.open_connection(host, int(port)))
        await made.send(opening)
        return made


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Node]:
    node = Node(**options)
    async with stations(node.station):
        yield node


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[tuple[Node, Program]]:
    async with running(**options) as node:
        program = await node.program()
        assert isinstance(await program.hear(), ext.Extended)
        try:
            yield node, program
        finally:
            await program.close()


def call(number: int, method: str, body: Any = None) -> ext.Call:
    return ext.Call(number, method, pack_value(body))
