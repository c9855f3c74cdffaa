"""RF-19: stock checks its connection time-out only when something happens on the socket, so a connect into
a black hole never ends and nothing is retried; its listen backlog is 5. Ours bounds connect and
handshake by time, notices a silent peer by its missing heartbeats, and dials again with a bounded
back-off."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pysyncobj.tcp_connection as stock_connection
import pysyncobj.tcp_server as stock_server
import pytest

from dqlite_py.model import Address, NodeId
from dqlite_py.raft.connection import TransportTiming
from dqlite_py.raft.rpc import RpcNotSent
from tests.faults.stock import NullPoller
from tests.support.wire import Relay, Station, stations, until

pytestmark = pytest.mark.rf("RF-19")


def test_stock_has_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(stock_connection, "monotonicTime", lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # A black hole is a connect about which the poller never says anything.
        connection = stock_connection.TcpConnection(NullPoller(), timeout=3.5)
        connection.connect(*listener.getsockname())
        now += 3600.0
        assert connection.state == stock_connection.CONNECTION_STATE.CONNECTING
        connection.disconnect()


def test_stock_listens_with_a_backlog_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    backlogs: list[int] = []

    class Listening(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            backlogs.append(backlog)
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Listening)
    server = stock_server.TcpServer(NullPoller(), "127.0.0.1", 0, onNewConnection=None)
    server.bind()
    server.unbind()
    assert backlogs == [5]


SHORT = TransportTiming(connect_ms=80, handshake_ms=120, idle_ms=200, reconnect_min_ms=5, reconnect_max_ms=20)


@asynccontextmanager
async def black_hole() -> AsyncIterator[Address]:
    """An address where connects hang: its backlog is full and nobody accepts."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        for _ in range(4):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield Address(f"{host}:{port}")


async def test_ours_is_closed() -> None:
    """A connect into a black hole ends in time, and is tried again."""
    one = Station(1, timing=SHORT)
    async with black_hole() as address, stations(one):
        one.transport.set_peers({NodeId(2): address})
        with pytest.raises(RpcNotSent, match="no connection within"):
            await one.transport.call(address, "anything", {}, 20)  # its own time is long, connecting's is not
        await until(lambda: bool(one.transport.status()[0].last_error), "the attempt was given up")
        two = Station(2, timing=SHORT)
        async with stations(two):
            one.transport.set_peers({NodeId(2): two.address})
            await until(lambda: one.transport.is_connected(NodeId(2)), "connected where it is now")


async def test_ours_gives_up_on_one_who_never_greets() -> None:
    """Accepting and saying nothing is as bad as not accepting."""
    one = Station(1, timing=SHORT)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        async with stations(one):
            with pytest.raises(RpcNotSent, match="no handshake within"):
                await one.transport.call(Address(f"{host}:{port}"), "anything", {}, 20)


async def test_ours_notices_a_link_that_fell_silent_and_dials_again() -> None:
    """Nothing is closed, nothing arrives any more: the missing heartbeats end the connection."""
    one, two = Station(1, timing=SHORT), Station(2, timing=SHORT)
    async with stations(one, two), Relay(two.address) as relay:
        await one.reach(two, relay.address)
        relay.hold()
        await until(lambda: ("disconnected", NodeId(2)) in one.events, "the silence was noticed")
        relay.flow()
        await until(lambda: one.transport.is_connected(NodeId(2)), "connected again")
    assert relay.accepted >= 2


async def test_ours_listens_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    backlogs: list[int] = []
    listen = socket.socket.listen

    class Listening(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            backlogs.append(backlog)
            listen(self, backlog)

    monkeypatch.setattr(socket, "socket", Listening)
    one = Station(1)
    async with stations(one):
        monkeypatch.undo()
    assert backlogs
    assert min(backlogs) >= 128
