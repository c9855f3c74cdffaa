"""RF-22: stale replies put stock's next index past the leader's log for ever, a snapshot that is not ready
spins the tick, and one failing accept closes the listener for good. Ours keeps next index within its
own log, offers a snapshot once per heartbeat, bounds and times out strangers, and goes on accepting
after an error."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from tests.faults.stock import SimNode, StockWorld
from tests.faults.stock_tcp import TcpNode

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
