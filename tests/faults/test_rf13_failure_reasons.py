"""RF-13: stock reports failures that are not true: LEADER_CHANGED for a command that was committed,
nothing at all after a reconnect, another command's SUCCESS after a restart, an exception after
queueing. Ours says NOT_APPLIED only when that is certain (refused before anything was appended, or
another entry was committed at its index), UNKNOWN otherwise, and correlates replies by connection."""

from __future__ import annotations

import os

import pysyncobj.pipe_notifier as pipe_notifier
import pytest
from pysyncobj.fast_queue import FastQueue

from tests.faults.stock import NullPoller, Outcomes, SimNode, StockWorld

pytestmark = pytest.mark.rf("RF-13")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    """LEADER_CHANGED is documented as "without command commit"."""
    a, b, c = stock_world.start("ABC")
    stock_world.elect("A")
    outcomes = Outcomes()
    b.op("pay", callback=outcomes.callback("pay"))
    b.doTick(0)
    stock_world.deliver("B", "A")
    a.doTick(0)
    stock_world.deliver("A", "C")
    stock_world.deliver("C", "A")
    a.doTick(0)
    stock_world.crash("A")
    stock_world.elect("C", among="BC")
    stock_world.settle("BC")
    assert outcomes == {"pay": ["LEADER_CHANGED"]}
    assert b.data == c.data == ["pay"]  # a retry pays twice


def test_stock_never_answers_after_a_reconnect(stock_world: StockWorld) -> None:
    a, b, _c = stock_world.start("ABC")
    stock_world.elect("A")
    outcomes = Outcomes()
    b.op("pay", callback=outcomes.callback("pay"))
    b.doTick(0)
    stock_world.deliver("B", "A")
    a.doTick(0)
    stock_world.disconnect("AB")
    stock_world.connect("AB")
    stock_world.settle(rounds=100)
    assert b.data == ["pay"]
    assert outcomes == {}


def test_stock_answers_the_wrong_command(stock_world: StockWorld) -> None:
    a, b, _c = stock_world.start("ABC")
    stock_world.elect("A")
    b.op("old", callback=Outcomes().callback("old"))
    b.doTick(0)
    stock_world.deliver("B", "A")  # in the leader's queue: request 1 of B's first life
    stock_world.crash("B")
    b = stock_world.start_one("B", "ABC")
    stock_world.connect("AB", "BC")
    b.set_private("raftLeader", SimNode("A"))
    outcomes = Outcomes()
    b.op("new", callback=outcomes.callback("new"))
    b.doTick(0)
    stock_world.queue("B", "A").clear()  # request 1 of B's second life is lost
    a.doTick(0)
    stock_world.settle(rounds=12)
    assert outcomes == {"new": ["SUCCESS"]}
    assert a.data == ["old"]


def test_stock_raises_after_queueing(monkeypatch: pytest.MonkeyPatch, stock_world: StockWorld) -> None:
    a = stock_world.start("A")[0]
    notifier = pipe_notifier.PipeNotifier(NullPoller())
    a.set_private("pipeNotifier", notifier)
    monkeypatch.setattr("pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED", True)
    queue: FastQueue = a.private("commandsQueue")
    calls, refused = 0, False
    while not refused:
        calls += 1
        try:
            a._applyCommand(b"", None, 1)
        except BlockingIOError:
            refused = True
    queued = 0
    while len(queue._FastQueue__queue):
        queue.get_nowait()
        queued += 1
    assert queued == calls  # the refused one will run, too
    for end in ("pipeR", "pipeW"):
        os.close(getattr(notifier, f"_PipeNotifier__{end}"))
