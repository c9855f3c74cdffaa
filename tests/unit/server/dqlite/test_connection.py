"""A connection of dqlite's protocol by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dqlite_py.gateway import StatementResult, UnitResult
from dqlite_py.server.dqlite.extension import Channel
from dqlite_py.server.dqlite.server import starts_like_dqlite
from dqlite_py.server.dqlite.settings import FRAME_S, READ_AHEAD_BYTES, STALL_S
from dqlite_py.wire.dqlite.frames import Frame, Version, encode_frame, encode_handshake
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import Database, Empty, Failure, Welcome
from dqlite_py.wire.dqlite.violations import ProtocolViolation
from tests.unit.server.dqlite.fakes import Client, client_of_a_database, make_server, request, turns


async def test_a_stream_cut_anywhere_is_the_same_stream() -> None:
    server, _ = make_server()
    client = Client(server, greets=False)
    stream = encode_handshake(Version.V1) + request(RequestType.CLIENT, 1) * 2
    client.connection.data_received(stream[:8])
    for byte in stream[8:]:
        client.connection.data_received(bytes([byte]))
    assert client.answers() == [Welcome(15_000), Welcome(15_000)]


def test_the_first_bytes_decide() -> None:
    for version in Version:
        handshake = encode_handshake(version)
        assert all(starts_like_dqlite(handshake[:count]) is None for count in range(1, 8))
        assert starts_like_dqlite(handshake + b"more") is True
    assert starts_like_dqlite(b"\x02") is False
    assert starts_like_dqlite(encode_handshake(Version.V1)[:7] + b"\x01") is False


async def test_many_requests_at_once_are_answered_in_order_without_deep_calls() -> None:
    server, _ = make_server()
    client = Client(server)
    client.connection.data_received(request(RequestType.CLIENT, 1) * 5000)
    assert client.answers() == [Welcome(15_000)] * 5000


async def test_while_a_request_is_at_work_little_is_read_on() -> None:
    server, parts = make_server()
    client = Client(server)
    client.send(RequestType.OPEN, "app", 0, "")
    await turns()
    client.connection.data_received(request(RequestType.CLIENT, 1) * (READ_AHEAD_BYTES // 16 + 2))
    assert client.transport.is_reading_paused
    assert client.answers() == []
    parts.gateway.opened.set_result(None)
    await turns()
    first, *others = client.answers()
    assert first == Database(0)
    assert others == [Welcome(15_000)] * (READ_AHEAD_BYTES // 16 + 2)
    assert not client.transport.is_reading_paused
    assert server.buffered_bytes == 0


async def test_an_interrupt_of_what_is_no_query_waits_in_its_place() -> None:
    server, parts = make_server()
    client = Client(server)
    client.send(RequestType.OPEN, "app", 0, "")
    client.send(RequestType.INTERRUPT, 0)
    await turns()
    assert client.answers() == []
    parts.gateway.opened.set_result(None)
    await turns()
    assert client.answers() == [Database(0), Empty()]


async def test_who_takes_no_answers_gets_no_more_and_is_given_up() -> None:
    server, _ = make_server()
    now = 1000.0
    server.now = lambda: now
    client = Client(server)
    client.connection.pause_writing()
    client.send(RequestType.CLIENT, 1)
    assert client.answers() == []
    client.connection.resume_writing()
    assert client.answers() == [Welcome(15_000)]
    client.connection.pause_writing()
    now += STALL_S / 2
    server.sweep()
    assert not client.transport.is_aborted
    now += STALL_S
    server.sweep()
    assert client.transport.is_aborted
    assert server.status()["violations"] == {"stalled": 1}
    client.connection.connection_lost(None)


async def test_a_frame_that_does_not_end_is_waited_for_so_long() -> None:
    server, _ = make_server()
    now = 1000.0
    server.now = lambda: now
    slow, idle, steady = Client(server), Client(server), Client(server)
    frame = request(RequestType.CLIENT, 1)
    slow.connection.data_received(frame[:3])
    for _ in range(3):
        steady.connection.data_received(frame[:5])
        now += FRAME_S * 0.4
        steady.connection.data_received(frame[5:])
        slow.connection.data_received(frame[3:4])
        server.sweep()
    assert slow.transport.is_aborted
    assert not idle.transport.is_aborted
    assert not steady.transport.is_aborted
    assert server.status()["violations"] == {"slow": 1}


async def test_more_connections_than_allowed_are_refused_with_an_answer() -> None:
    server, _ = make_server(connections_max=2)
    one, _two, three = Client(server), Client(server), Client(server)
    assert three.answers() == [Failure(1, "too many connections to this node")]
    assert three.transport.is_closed
    assert server.status()["refused"] == 1
    one.connection.connection_lost(None)
    assert Client(server).transport.is_closed is False


async def test_what_all_clients_have_sent_is_bounded() -> None:
    server, parts = make_server()
    server.requests_bytes_max = 300_000
    parts.gateway.opened.set_result(None)
    clients = [Client(server) for _ in range(3)]
    for client in clients:
        client.send(RequestType.OPEN, "app", 0, "")
    await turns()
    head = (1_000_000 // 8).to_bytes(4, "little") + bytes([RequestType.EXEC_SQL, 0, 0, 0])
    for client in clients:
        client.answers()
        client.connection.data_received(head + bytes(140_000))
    assert [client.transport.is_closed for client in clients] == [False, False, True]
    assert server.status()["violations"] == {"memory": 1}
    for client in clients:
        client.connection.connection_lost(None)
    assert server.buffered_bytes == 0


async def test_a_write_at_work_is_not_answered_by_what_is_wrong_with_the_next_request() -> None:
    client = await client_of_a_database(lambda *_: None)
    client.send(RequestType.EXEC_SQL, 0, "INSERT INTO t VALUES (1)", ())
    client.connection.data_received(bytes(8))
    assert client.answers() == []
    assert client.transport.is_closed


async def test_a_write_that_fails_unexpectedly_may_have_happened() -> None:
    told: list[Any] = []

    def broken(*arguments: Any) -> None:
        told.append(arguments[-1])
        raise ZeroDivisionError

    client = await client_of_a_database(broken)
    client.send(RequestType.EXEC_SQL, 0, "INSERT INTO t VALUES (1)", ())
    [failure] = client.answers()
    assert isinstance(failure, Failure)
    assert failure.code == 10
    client.send(RequestType.CLIENT, 1)
    told[0](UnitResult(1, [StatementResult(1, 1)]), None)  # it was on its way, and nobody waits for it
    assert client.answers() == []
    assert client.transport.is_closed


async def test_before_a_database_is_open_requests_are_small() -> None:
    server, _ = make_server()
    client = Client(server)
    client.connection.data_received((100_000).to_bytes(4, "little") + bytes([RequestType.OPEN, 0, 0, 0]))
    [failure] = client.answers()
    assert isinstance(failure, Failure)
    assert failure.code == 1005
    assert client.transport.is_closed


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(99, 0, bytes(8)), 1005),
        (Frame(RequestType.LEADER, 1, bytes(8)), 1005),
        (Frame(RequestType.EXEC_SQL, 2, bytes(24)), 1),
        (Frame(RequestType.CLUSTER, 1, bytes(8)), 1005),
    ],
)
async def test_an_unknown_type_or_schema_is_refused_and_the_connection_goes_on(
    frame: Frame, code: int
) -> None:
    server, _ = make_server()
    client = Client(server)
    client.connection.data_received(encode_frame(frame))
    [failure] = client.answers()
    assert isinstance(failure, Failure)
    assert failure.code == code
    client.send(RequestType.CLIENT, 1)
    assert client.answers() == [Welcome(15_000)]
    assert server.status()["violations"] == {"request": 1}


@pytest.mark.parametrize(
    ("stream", "has_answer"),
    [
        (bytes(8), True),  # no words
        (b"\xff" * 8, True),  # too many
        (encode_frame(Frame(RequestType.OPEN, 0, b"x" * 8)), False),  # a text without its end
        (encode_frame(Frame(RequestType.LEADER, 0, bytes(16))), False),  # too long for its fields
    ],
)
async def test_bytes_that_are_no_request_end_the_connection(stream: bytes, has_answer: bool) -> None:
    server, _ = make_server()
    client = Client(server)
    client.connection.data_received(stream)
    assert client.transport.is_closed
    assert [type(answer) for answer in client.answers()] == [Failure] * has_answer
    client.send(RequestType.CLIENT, 1)
    assert client.answers() == []


class FakeExtension:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.frames: list[Frame] = []
        self.closed_count = self.writable_count = 0

    def on_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        if frame.type == 0xDF:
            raise ProtocolViolation("not this one")
        self.channel.write(encode_frame(Frame(8, 0, bytes(8))))

    def writable(self) -> None:
        self.writable_count += 1

    def closed(self) -> None:
        self.closed_count += 1


async def test_frames_of_our_own_types_go_to_the_extension_at_any_time() -> None:
    server, parts = make_server()
    made: list[FakeExtension] = []

    def make(channel: Channel) -> FakeExtension:
        made.append(FakeExtension(channel))
        return made[-1]

    own = Frame(0xD1, 0, bytes(80_000))
    client = Client(server)
    client.connection.data_received(encode_frame(Frame(0xD0, 0, bytes(8))))
    assert [answer.code for answer in client.answers() if isinstance(answer, Failure)] == [1005]
    server.extension = make
    client.connection.data_received(encode_frame(Frame(0xD0, 0, bytes(8))))
    client.send(RequestType.OPEN, "app", 0, "")
    client.connection.data_received(encode_frame(own))
    assert made[0].frames == [Frame(0xD0, 0, bytes(8)), own]
    assert client.answers() == [Empty(), Empty()]
    client.connection.pause_writing()
    assert made[0].channel.is_writing_paused
    client.connection.resume_writing()
    assert made[0].writable_count == 1
    parts.gateway.opened.set_result(None)
    await turns()
    assert client.answers() == [Database(0)]
    client.connection.data_received(encode_frame(Frame(0xDF, 0, bytes(8))))
    assert client.transport.is_closed
    client.connection.connection_lost(None)
    assert made[0].closed_count == 1
    assert len(made) == 1


async def test_a_stop_lets_the_request_at_work_end() -> None:
    server, parts = make_server()
    busy, idle = Client(server), Client(server)
    busy.send(RequestType.OPEN, "app", 0, "")
    await turns()
    stopping = asyncio.ensure_future(server.stop())
    await turns()
    assert idle.transport.is_closed
    assert not busy.transport.is_closed
    assert isinstance(Client(server).answers()[0], Failure)
    parts.gateway.opened.set_result(None)
    await turns()
    assert busy.answers() == [Database(0)]
    assert busy.transport.is_closed
    for client in (busy, idle):
        client.connection.connection_lost(None)
    await stopping
