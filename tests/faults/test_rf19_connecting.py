"""RF-19: stock checks its connection time-out only when something happens on the socket, so a connect into
a black hole never ends and nothing is retried; its listen backlog is 5. Ours bounds connect and
handshake by time, notices a silent peer by its missing heartbeats, and dials again with a bounded
back-off."""

from __future__ import annotations

import socket

import pysyncobj.tcp_connection as stock_connection
import pysyncobj.tcp_server as stock_server
import pytest

from tests.faults.stock import NullPoller

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
