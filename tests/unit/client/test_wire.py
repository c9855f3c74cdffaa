"""A program's side of an extended connection: what a failed call says, what is taken back, and servers that are odd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dqlite_py.client import connections as connections_module
from dqlite_py.client.connections import Connections
from dqlite_py.client.wire import NodeConnection, NotExtended, NotServing, StockAnswer
from dqlite_py.errors import OperationalError, RequestTooLarge, WrongCluster
from dqlite_py.model import Address
from dqlite_py.wire.dqlite import extension as ext
from dqlite_py.wire.dqlite.frames import FrameReader
from dqlite_py.wire.rpc import RpcError, RpcLost, RpcNotSent, error_body, pack_value, unpack_value
from tests.support.wire import CLUSTER, WAIT_S, until

EXTENDED = ext.encode_message(ext.Extended(1, 0, CLUSTER, 7))
Serve = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers the opening with `greeting`, notes what comes, and does with calls what a test says."""

    def __init__(self, greeting: bytes, on_message: Callable[[Server, Any], bytes | None]) -> None:
        self.greeting = greeting
        self.heard: list[Any] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: list[asyncio.Task[None] | None] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.address = Address("")
        self._on_message = on_message

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.tasks.append(asyncio.current_task())
        frames = FrameReader(ext.FRAME_BYTES_MAX)
        try:
            await reader.readexactly(8)
            while data := await reader.read(65_536):
                frames.feed(data)
                while (frame := frames.next_frame()) is not None:
                    message = ext.decode_from_client(frame)
                    self.heard.append(message)
                    answer = (
                        self.greeting if isinstance(message, ext.Extend) else self._on_message(self, message)
                    )
                    if answer is None:
                        return
                    writer.write(answer)
                await self.reads.wait()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]


@asynccontextmanager
async def server(
    greeting: bytes = EXTENDED, on_message: Callable[[Server, Any], bytes | None] = lambda *_: b""
) -> AsyncIterator[Server]:
    made = Server(greeting, on_message)
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.address = Address(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    try:
        yield made
    finally:
        listening.close()
        made.reads.set()
        for writer in made.writers:
            writer.close()
        await listening.wait_closed()
        for task in made.tasks:
            if task is not None:
                task.cancel()
                await asyncio.wait([task])


@asynccontextmanager
async def connections() -> AsyncIterator[Connections]:
    made = Connections(None)
    try:
        yield made
    finally:
        await made.stop()


@asynccontextmanager
async def connected(
    on_message: Callable[[Server, Any], bytes | None] = lambda *_: b"",
) -> AsyncIterator[tuple[Server, NodeConnection]]:
    async with server(on_message=on_message) as made, connections() as ours:
        yield made, await ours.get(made.address)


def due(seconds: float = WAIT_S) -> float:
    return asyncio.get_running_loop().time() + seconds


def echo(_server: Server, message: Any) -> bytes:
    if isinstance(message, ext.Call):
        return ext.encode_answer(message.id, ext.AnswerKind.OK, message.body)
    return b""


# -- the opening --------------------------------------------------------------------------------------------------


async def test_the_first_node_tells_the_cluster() -> None:
    async with server(on_message=echo) as node, connections() as ours:
        first, second = await asyncio.gather(ours.get(node.address), ours.get(node.address))
        assert first is second
        assert await first.call("m", [1], due()) == [1]
        assert ours.cluster_id == CLUSTER
        first.abort("test")
        again = await ours.get(node.address)
        assert again is not first
        assert [extend.cluster_id for extend in node.of(ext.Extend)] == [b"", CLUSTER]


def failure(code: int) -> bytes:
    return ext.encode_message(ext.Failure(code, "told so"))


@pytest.mark.parametrize(
    ("greeting", "kind", "text"),
    [
        (failure(ext.RefusalCode.WRONG_CLUSTER), WrongCluster, "told so"),
        (failure(ext.RefusalCode.NO_CLUSTER), NotServing, "told so"),
        (failure(ext.RefusalCode.STOPPING), NotServing, "told so"),
        (failure(1005), StockAnswer, "told so"),
        (ext.encode_message(ext.Extended(2, 0, CLUSTER, 7)), NotExtended, "version 2"),
        (bytes(16), NotExtended, "no sense"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", NotExtended, "no sense"),
    ],
)
async def test_answers_to_an_opening(greeting: bytes, kind: type[Exception], text: str) -> None:
    async with server(greeting) as node, connections() as ours:
        with pytest.raises(kind, match=text) as caught:
            await ours.get(node.address)
        assert type(caught.value) is kind


async def test_a_server_that_closes() -> None:
    async with server(EXTENDED, lambda *_: None) as node, connections() as ours:
        node.greeting = b""
        opening = asyncio.create_task(ours.get(node.address))
        await until(lambda: bool(node.of(ext.Extend)))
        node.writers[0].close()
        with pytest.raises(NotExtended, match="closed the connection"):
            await opening


async def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "HANDSHAKE_TIMEOUT_MS", 100)
    monkeypatch.setattr(connections_module, "SILENCE_S", 0.05)
    monkeypatch.setattr(connections_module, "_PROBE_S", 0.05)
    async with server(b"") as node, connections() as ours:
        with pytest.raises(NotExtended, match="no handshake within 100 ms"):
            await ours.get(node.address)


async def test_two_clusters_at_once_are_not_mixed() -> None:
    other = ext.encode_message(ext.Extended(1, 0, b"some-other-group", 8))
    async with server() as one, server(other) as two, connections() as ours:
        found = await asyncio.gather(ours.get(one.address), ours.get(two.address), return_exceptions=True)
        assert sorted(type(each).__name__ for each in found) == ["NodeConnection", "WrongCluster"]


# -- calls ------------------------------------------------------------------------------------------------------------


async def test_errors_are_those_of_the_node() -> None:
    def fail(_server: Server, message: Any) -> bytes:
        error = pack_value(error_body(OperationalError("no", code=5, why="so")))
        return ext.encode_answer(message.id, ext.AnswerKind.ERROR, error)

    async with connected(fail) as (_, connection):
        with pytest.raises(OperationalError, match="no") as caught:
            await connection.call("m", None, due())
        assert (caught.value.code, caught.value.details) == (5, {"why": "so"})


@pytest.mark.parametrize(
    "answer",
    [
        lambda call: ext.encode_answer(call.id, ext.AnswerKind.OK, b"\xc1"),
        lambda call: ext.encode_answer(call.id, ext.AnswerKind.ERROR, b"\xc1"),
        lambda call: ext.encode_answer(call.id, ext.AnswerKind.ERROR, b"\xc0"),
        lambda call: ext.encode_answer(call.id, ext.AnswerKind.MORE, b"\xc0"),
        lambda call: ext.encode_message(ext.Part(call.id, b"short")),
        lambda call: EXTENDED,
        lambda call: failure(1005),
        lambda call: b"\xff" * 64,
        lambda call: None,
    ],
)
async def test_a_call_that_was_delivered_and_not_answered_is_lost(answer: Any) -> None:
    async with connected(lambda _, message: answer(message)) as (_, connection):
        with pytest.raises(RpcLost):
            await connection.call("m", None, due())


async def test_a_call_on_a_closed_connection_was_not_sent() -> None:
    async with connected() as (_, connection):
        connection.abort("test")
        with pytest.raises(RpcNotSent):
            await connection.call("m", None, due())


async def test_without_an_answer_in_time_it_is_lost_and_cancelled() -> None:
    async with connected() as (node, connection):
        with pytest.raises(RpcLost, match="in time"):
            await connection.call("m", None, due(0.05))
        await until(lambda: [c.id for c in node.of(ext.Cancel)] == [node.of(ext.Call)[0].id])
        assert connection.is_open


async def test_a_cancelled_call_is_told() -> None:
    async with connected() as (node, connection):
        asking = asyncio.create_task(connection.call("m", None, due()))
        await until(lambda: bool(node.of(ext.Call)))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: bool(node.of(ext.Cancel)))


async def test_one_that_is_cancelled_before_it_left_never_leaves() -> None:
    async with connected(echo) as (node, connection):
        connection.pause_writing()  # as a full socket does
        asking = asyncio.create_task(connection.call("first", None, due()))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        connection.resume_writing()
        assert await connection.call("second", 5, due()) == 5
        assert [call.method for call in node.of(ext.Call)] == ["second"]
        assert not node.of(ext.Cancel)


async def test_what_a_full_socket_holds_back_was_not_sent() -> None:
    async with connected() as (node, connection):
        node.reads.clear()
        huge = bytes(12 * 1024 * 1024)
        calls = [asyncio.create_task(connection.call("m", huge, due(0.4))) for _ in range(2)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in found] == [RpcNotSent, RpcNotSent]
        node.reads.set()
        await until(lambda: len(node.of(ext.Cancel)) == 2)
        assert not node.of(ext.Call)


async def test_a_request_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ext, "BODY_BYTES_MAX", 1000)
    async with connected(echo) as (node, connection):
        with pytest.raises(RequestTooLarge, match="at most 1000"):
            await connection.call("m", bytes(1000), due())
        assert await connection.call("m", 1, due()) == 1
        assert len(node.of(ext.Call)) == 1


async def test_answers_that_nobody_waits_for_are_ignored() -> None:
    def twice(_server: Server, message: Any) -> bytes:
        answer = ext.encode_answer(message.id, ext.AnswerKind.OK, message.body)
        return ext.encode_answer(message.id + 1, ext.AnswerKind.OK, b"\xc1") + answer + answer

    async with connected(twice) as (_, connection):
        assert [await connection.call("m", number, due()) for number in range(3)] == [0, 1, 2]


# -- streams ------------------------------------------------------------------------------------------------------


async def test_a_stream_in_pieces() -> None:
    def stream(server: Server, message: Any) -> bytes:
        if isinstance(message, ext.Credit):
            call = server.of(ext.Call)[0]
            sent = sum(credit.pieces for credit in server.of(ext.Credit))
            pieces = [pack_value(n) for n in range(sent - message.pieces, sent)]
            more = b"".join(ext.encode_answer(call.id, ext.AnswerKind.MORE, piece) for piece in pieces)
            return (
                more if sent < 5 else more + ext.encode_answer(call.id, ext.AnswerKind.OK, pack_value("end"))
            )
        return b""

    async with connected(stream) as (_, connection):
        found: list[int] = []
        number = connection.begin("m", None, due(), found.append)
        asking = asyncio.create_task(connection.finish(number))
        connection.allow(number, 3)
        await until(lambda: found == [0, 1, 2])
        connection.allow(number, 2)
        assert await asking == "end"
        assert found == [0, 1, 2, 3, 4]


# -- idle connections -----------------------------------------------------------------------------------------------


async def test_a_node_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_IDLE_S", 0.5)
    monkeypatch.setattr(connections_module, "_PING_S", 0.1)
    monkeypatch.setattr(connections_module, "_STEP_S", 0.02)
    async with connected() as (node, connection):
        with pytest.raises(RpcLost, match="nothing received for 500 ms"):
            await connection.call("m", None, due())
        assert node.of(ext.Ping)


async def test_one_that_answers_pings_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_IDLE_S", 0.5)
    monkeypatch.setattr(connections_module, "_PING_S", 0.05)
    monkeypatch.setattr(connections_module, "_STEP_S", 0.02)

    def answer(server: Server, message: Any) -> bytes:
        if isinstance(message, ext.Ping) and len(server.of(ext.Ping)) > 20:
            return ext.encode_answer(server.of(ext.Call)[0].id, ext.AnswerKind.OK, pack_value("late"))
        return ext.encode_message(message) if isinstance(message, ext.Ping) else b""

    async with connected(answer) as (_, connection):
        assert await connection.call("m", None, due()) == "late"


async def test_one_that_is_not_used_is_closed_and_one_that_is_kept_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections_module, "UNUSED_S", 0.1)
    monkeypatch.setattr(connections_module, "_STEP_S", 0.02)
    async with server() as one, server() as two, connections() as ours:
        kept, unused = await ours.get(one.address), await ours.get(two.address)
        let_go = ours.keep_open(one.address)
        await until(lambda: not unused.is_open)
        assert kept.is_open
        assert ours.open_to(two.address) is None
        let_go()
        await until(lambda: not kept.is_open)
        await until(lambda: ours.descriptors() == [])


async def test_closing_fails_what_waits() -> None:
    async with server() as node:
        async with connections() as ours:
            connection = await ours.get(node.address)
            asking = asyncio.create_task(connection.call("m", None, due()))
            await until(lambda: bool(node.of(ext.Call)))
        with pytest.raises(RpcError, match="closed"):
            await asking
        with pytest.raises(RpcNotSent, match="closed"):
            await ours.get(node.address)
        assert unpack_value(node.of(ext.Call)[0].body) is None
