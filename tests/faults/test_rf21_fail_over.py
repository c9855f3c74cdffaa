"""RF-21: stock closes a link that was idle for longer than its time-out at the first use, before the
message is sent, and followers never talk to each other: the first vote request after a leader's crash
is always lost, and fail-over needs two elections. Ours keeps links alive with their own heartbeats and
staggers elections, so one round does it."""

from __future__ import annotations

import select
import socket

import pysyncobj.tcp_connection as stock_connection
import pytest

from tests.faults.stock import NullPoller

pytestmark = pytest.mark.rf("RF-21")


@pytest.mark.parametrize(("idle_s", "arrives"), [(1.0, True), (6.0, False)])
def test_stock_has_the_fault(monkeypatch: pytest.MonkeyPatch, idle_s: float, arrives: bool) -> None:
    now = 1000.0
    monkeypatch.setattr(stock_connection, "monotonicTime", lambda: now)
    mine, theirs = socket.socketpair()
    with theirs:
        link = stock_connection.TcpConnection(NullPoller(), socket=mine, timeout=3.5)
        now += idle_s  # nothing has gone wrong; the followers had nothing to say
        link.send({"type": "request_vote", "term": 2})
        readable = select.select([theirs], [], [], 0)[0]
        assert bool(readable and theirs.recv(65536)) is arrives
        link.disconnect()
