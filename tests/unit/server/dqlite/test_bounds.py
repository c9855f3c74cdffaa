"""What all connections of dqlite's protocol hold together: requests at work, prepared texts, answers nobody takes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from dqlite_py.gateway import QueryResult, StatementResult, UnitResult
from dqlite_py.server.dqlite.server import DqliteServer
from dqlite_py.server.dqlite.settings import SMALL_BYTES, STALL_S
from dqlite_py.server.dqlite.sockets import keep_alive
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import Database, Failure, Result, Statement
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.values import typed
from tests.unit.server.dqlite.fakes import Client, make_server, turns

LARGE = 150_000
INSERT = "INSERT INTO t VALUES (?)"


async def clients_of(count: int) -> tuple[DqliteServer, list[Client]]:
    """Each with a database open."""
    server, parts = make_server()
    parts.gateway.opened.set_result(None)
    clients = [Client(server) for _ in range(count)]
    for client in clients:
        client.send(RequestType.OPEN, "app", 0, "")
        await turns()
        assert client.answers() == [Database(0)]
    return server, clients


async def test_requests_at_work_are_part_of_what_all_clients_hold() -> None:
    server, clients = await clients_of(4)
    server.requests_bytes_max = 400_000
    told: list[Any] = []
    server.gateway.write = lambda *arguments: told.append(arguments[-1])  # type: ignore[method-assign]
    for client in clients[:3]:
        client.send(RequestType.EXEC_SQL, 0, INSERT, (typed(bytes(LARGE)),))
    small = clients[3]
    small.send(RequestType.EXEC_SQL, 0, INSERT, (typed("small"),))
    assert [client.transport.is_closed for client in clients] == [False, False, True, False]
    [failure] = clients[2].answers()
    assert isinstance(failure, Failure)
    assert "try again later" in failure.message
    assert server.status()["violations"] == {"memory": 1}
    for written in told:
        written(UnitResult(1, [StatementResult(1, 1)]), None)
    assert [clients[position].answers() for position in (0, 1, 3)] == [[Result(1, 1)]] * 3
    assert server.buffered_bytes == 0
    clients[0].send(RequestType.EXEC_SQL, 0, INSERT, (typed(bytes(LARGE)),))
    assert not clients[0].transport.is_closed
    clients[0].connection.connection_lost(None)
    assert server.buffered_bytes == 0


async def test_prepared_texts_of_all_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    server, clients = await clients_of(3)

    async def check(*_: Any) -> None:
        return

    async def off_loop(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(server.gateway, "check", check)
    monkeypatch.setattr(server.gateway, "off_loop", off_loop)
    server.statements.bytes_max = 2 * LARGE

    async def prepared(client: Client, size: int) -> Any:
        client.send(RequestType.PREPARE, 0, f"SELECT 1 -- {'x' * size}")
        await turns()
        [answer] = client.answers()
        return answer

    assert await prepared(clients[0], LARGE) == Statement(0, 0, 0)
    refused = await prepared(clients[1], LARGE)
    assert isinstance(refused, Failure)
    assert refused.code == 7
    # Who holds little is not locked out by those who hold much.
    assert await prepared(clients[1], SMALL_BYTES // 2) == Statement(0, 0, 0)
    clients[0].send(RequestType.FINALIZE, 0, 0)
    clients[0].answers()
    assert await prepared(clients[1], LARGE) == Statement(0, 1, 0)
    clients[1].connection.connection_lost(None)
    await turns()
    assert await prepared(clients[2], LARGE) == Statement(0, 0, 0)
    assert server.statements.used_bytes > LARGE


class Rest:
    def __init__(self, *pieces: list[Any]) -> None:
        self.pieces = list(pieces)
        self.is_closed = False

    async def fetch(self) -> list[Any]:
        return self.pieces.pop(0) if self.pieces else []

    async def close(self) -> None:
        self.is_closed = True


async def test_answers_that_nobody_takes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    server, clients = await clients_of(3)
    server.answers_bytes_max = 2 * LARGE
    row = (bytes(LARGE),)
    rests: list[Rest] = []

    async def query(*_: Any) -> Any:
        rests.append(Rest([row]))
        return QueryResult(("a",), (None,), [row], more=rests[-1])  # type: ignore[arg-type]

    monkeypatch.setattr(server.gateway, "query", query)
    one, two, three = clients
    one.send(RequestType.QUERY_SQL, 0, "SELECT a FROM t", ())
    one.connection.pause_writing()
    await turns(10)
    assert LARGE < len(one.transport.written) < 2 * LARGE
    two.send(RequestType.QUERY_SQL, 0, "SELECT a FROM t", ())
    await turns(10)
    [refused] = two.answers()
    assert isinstance(refused, Failure)
    assert (refused.code, rests[1].is_closed) == (5, True)
    # What is small is answered, and what is taken makes room.
    three.send(RequestType.CLIENT, 1)
    assert len(three.answers()) == 1
    [batch] = one.answers()
    assert isinstance(batch, RowsBatch)
    assert not batch.is_last
    one.connection.resume_writing()
    await turns(10)
    [batch] = one.answers()
    assert isinstance(batch, RowsBatch)
    assert batch.is_last
    two.send(RequestType.QUERY_SQL, 0, "SELECT a FROM t", ())
    await turns(10)
    assert [type(answer) for answer in two.answers()] == [RowsBatch, RowsBatch]


async def test_who_takes_a_large_answer_slowly_is_not_given_up() -> None:
    """One that takes nothing, or next to nothing, is."""
    server, (steady, slow, stopped) = await clients_of(3)
    now = 1000.0
    server.now = lambda: now
    for client in (steady, slow, stopped):
        client.connection.write(bytes(4_000_000))
        client.connection.pause_writing()
    for _ in range(20):
        now += STALL_S / 2
        del steady.transport.written[:40_000]
        del slow.transport.written[:10_000]
        server.sweep()
    assert [client.transport.is_aborted for client in (steady, slow, stopped)] == [False, True, True]
    now += STALL_S + 1
    server.sweep()
    assert steady.transport.is_aborted
    for client in (steady, slow, stopped):
        client.connection.connection_lost(None)


async def test_a_request_that_is_given_up_inside_leaves_no_client_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, [client] = await clients_of(1)

    async def query(*_: Any) -> Any:
        raise asyncio.CancelledError

    monkeypatch.setattr(server.gateway, "query", query)
    client.send(RequestType.QUERY_SQL, 0, "SELECT 1", ())
    await turns(10)
    assert client.transport.is_closed


async def test_a_machine_that_is_gone_is_given_up_whatever_it_was_sent() -> None:
    """TCP probes idle connections only; what was sent in vain it repeats for a quarter of an hour."""
    with socket.socket() as one:
        keep_alive(one)
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
