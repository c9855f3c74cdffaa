"""RF-21: stock closes a link that was idle for longer than its time-out at the first use, before the
message is sent, and followers never talk to each other: the first vote request after a leader's crash
is always lost, and fail-over needs two elections. Ours keeps links alive with their own heartbeats and
staggers elections, so one round does it."""

from __future__ import annotations

import asyncio
import select
import socket
import statistics
from dataclasses import replace

import pysyncobj.tcp_connection as stock_connection
import pytest

from dqlite_py.model import LogIndex, Term
from dqlite_py.raft.messages import VoteRequest
from tests.faults.ours import CoreWorld
from tests.faults.stock import NullPoller
from tests.support.wire import FAST, Station, stations, until

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


def test_ours_is_closed() -> None:
    """After seconds of quiet the leader dies: in 40 seeds the first round elects, nearly always."""
    took_ms, terms = [], []
    for seed in range(40):
        world = CoreWorld("ABC", seed=seed)
        a = world.elect("A")
        world.run(5_000)
        before = a.term
        world.crash("A")
        took_ms.append(world.run_until(lambda world=world: bool(world.leaders()), ms=10_000))
        terms.append(world[world.leaders()[0]].term - before)
    settings = world.settings
    assert statistics.median(took_ms) <= settings.election_max_ms + 100
    assert max(took_ms) <= 3 * settings.election_max_ms
    assert statistics.median(terms) == 1
    assert sum(term > 1 for term in terms) <= 4


async def test_ours_sends_the_first_message_over_a_link_that_was_idle() -> None:
    """Followers have nothing to say to each other for longer than the idle time: the vote request arrives."""
    timing = replace(FAST, idle_ms=200)
    one, two = Station(1, timing=timing), Station(2, timing=timing)
    async with stations(one, two):
        await one.reach(two)
        await asyncio.sleep(3 * timing.idle_ms / 1000)
        request = VoteRequest(one.id, Term(2), True, LogIndex(1), Term(1), False)
        assert one.transport.send(two.id, request)
        await until(lambda: bool(two.messages), "the request arrives")
        assert two.messages == [(one.id, request)]
        assert one.events == [("connected", two.id)]
