"""RF-22: stale replies put stock's next index past the leader's log for ever, a snapshot that is not ready
spins the tick, and one failing accept closes the listener for good. Ours keeps next index within its
own log, offers a snapshot once per heartbeat, bounds and times out strangers, and goes on accepting
after an error."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from typing import Any

import pytest

from dqlite_py.model import LogIndex, Term
from dqlite_py.raft.messages import AppendReply, SnapshotOffer
from tests.faults.ours import CoreWorld, node_id, payloads, propose_all
from tests.faults.stock import SimNode, StockWorld
from tests.faults.stock_tcp import TcpNode
from tests.support.wire import Station, stations, until

pytestmark = pytest.mark.rf("RF-22")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    """One late `reset` reply, and the follower is never repaired while the leader is idle."""
    a, b, _c = stock_world.start("ABC")
    stock_world.elect("A")
    stock_world.isolate("A")
    for value in range(30):
        a.op(value)
    a.doTick(0)
    stock_world.elect("B", among="BC")
    stock_world.connect("AB", "AC")
    late = {"type": "next_node_idx", "next_node_idx": 33, "reset": True, "success": False}
    stock_world.hand("A", "B", late)
    stock_world.settle(rounds=100)
    assert b.private("raftNextIndex")[SimNode("A")] == 33
    assert b.last_index < 33
    assert a.log() != b.log()


def test_stock_spins_while_a_snapshot_is_not_ready(stock_world: StockWorld) -> None:
    a, _b, _c = stock_world.start("ABC")
    stock_world.elect("A")
    stock_world.disconnect("AC", "BC")
    for value in range(20):
        a.op(value)
    stock_world.settle("AB")
    a.forceLogCompaction()
    a.doTick(0)
    a.doTick(0)
    serializer: Any = a.private("serializer")
    serializer._Serializer__pid = 12345  # the process that writes the next snapshot is running
    serializer.checkSerializing = lambda: (1, None)
    stock_world.connect("AC")
    a.private("raftNextIndex")[SimNode("C")] = 2

    def one_message_takes_10_us(_source: str, _target: str, _message: Any) -> None:
        stock_world.now += 0.000_01

    stock_world.on_send = one_message_takes_10_us
    stock_world.now += 0.2
    a.doTick(0)
    assert len(stock_world.queue("A", "C")) > 5_000


def test_stock_is_deaf_after_one_failing_accept() -> None:
    node = TcpNode()
    address = node.listening().getsockname()

    class OutOfDescriptors:
        """The listening socket at the moment when the process has no descriptor left."""

        def __init__(self, real: socket.socket) -> None:
            self.close = real.close

        def accept(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    server = node._SyncObj__transport._server
    real = server._TcpServer__socket
    server._TcpServer__socket = OutOfDescriptors(real)
    with socket.create_connection(address, timeout=2):
        assert node.tick_until(lambda: real.fileno() == -1)
    for _ in range(5):
        node.doTick(0.01)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=2)
    node.destroy()


def test_ours_is_closed() -> None:
    """Late and impossible answers cannot push next index past the leader's log; A is repaired."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.isolate("A")
    propose_all(a, payloads("isolated", 30))
    b = world.elect("B", among="BC")
    world.connect("AB", "AC")
    late = AppendReply(
        sender=node_id("A"),
        term=b.term,
        reject=True,
        prev_index=LogIndex(33),
        match_index=LogIndex(0),
        hint_index=LogIndex(32),
        hint_term=Term(1),
        round=1,
        needs_snapshot=False,
    )
    for prev in (0, b.last_index, 33, 10**9):
        for hint in (0, 32, 10**9):
            for round_number in (0, 1, 10**9):
                world.hand(
                    "B",
                    late._replace(prev_index=LogIndex(prev), hint_index=LogIndex(hint), round=round_number),
                )
                assert b.core.peers[node_id("A")].next_index <= b.last_index + 1
    world.hand("B", late._replace(reject=False, match_index=LogIndex(10**9)))
    assert b.core.peers[node_id("A")].match_index <= b.last_index
    world.run(2_000)
    assert a.log() == b.log()


def test_ours_offers_a_snapshot_with_the_heartbeats() -> None:
    """Nothing spins while the follower has not got it: one offer per heartbeat, whatever else happens."""
    world = CoreWorld("ABC")
    world.isolate("C")
    a = world.elect("A", among="AB")
    propose_all(a, payloads("value", 20))
    world.pump("AB")
    world.heartbeat("A", among="AB")
    a.compact()
    world.connect("AC", "BC")
    world.run(200)
    start, seconds = len(world.sent), 3
    for number in range(seconds * 50):
        a.propose(b"%d" % number)  # every commit wakes the leader's sending
        world.run(20)
    sent = [m for source, target, m in world.sent[start:] if (source, target) == ("A", "C")]
    offers = [m for m in sent if isinstance(m, SnapshotOffer)]
    assert offers
    assert len(sent) <= seconds * 1000 / world.settings.heartbeat_ms + 2
    assert len(world["C"].offers) == 1


async def test_ours_goes_on_accepting_among_idle_strangers() -> None:
    """More silent connections than there is room for: members still get in, strangers are thrown out."""
    one, two = Station(1), Station(2)
    async with stations(one, two):
        one.transport._listener.incoming_max = 8
        host, _, port = one.address.rpartition(":")
        strangers = [await asyncio.open_connection(host, int(port)) for _ in range(30)]
        await two.reach(one)
        for _, writer in strangers:
            writer.close()
        assert two.transport.is_connected(one.id)


async def test_ours_goes_on_accepting_after_a_failing_accept() -> None:
    """The process runs out of descriptors for a while; afterwards the port accepts again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    one, two = Station(1), Station(2)
    loop = asyncio.get_running_loop()
    complaints: list[object] = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context.get("exception")))
    async with stations(one, two):
        host, _, port = one.address.rpartition(":")
        with socket.socket() as early:
            early.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (early.fileno() + 1, hard))
            try:
                early.connect_ex((host, int(port)))
                await until(lambda: bool(complaints), "accept failed")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert isinstance(complaints[0], OSError)
        assert complaints[0].errno == errno.EMFILE
        await two.reach(one)
