"""RF-14: in stock an exception of a replicated method ends the tick before the network is served and the
entry is applied again each tick; one of a callback applies the entry twice on that node. Ours makes a
failing statement the unit's result, stops a database only for environmental failures, and applies every
index once whatever callbacks do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dqlite_py.errors import OutcomeUnknown
from tests.faults.ours_host import Answers, hosted
from tests.faults.stock import Outcomes, StockWorld
from tests.support.wire import until

pytestmark = pytest.mark.rf("RF-14")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, _b, _c = stock_world.start("ABC")
    stock_world.elect("A")
    polls = []
    a._poller.poll = lambda timeout: polls.append(timeout)
    outcomes = Outcomes()
    a.poison("x", callback=outcomes.callback("x"))
    a.doTick(0)
    stock_world.pump()
    polls.clear()
    for _ in range(5):
        with pytest.raises(ValueError, match="constraint failed"):
            a.doTick(0)
    assert a.data == ["x"] * 5  # applied again by every tick
    assert polls == []  # and the network is never served again
    assert outcomes == {}


def test_stock_applies_twice_when_a_callback_raises(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC")
    stock_world.elect("A")

    def closed_loop(_result: object, _reason: int) -> None:
        raise RuntimeError("Event loop is closed")

    a.op("once", callback=closed_loop)
    a.doTick(0)
    stock_world.pump()
    with pytest.raises(RuntimeError):
        a.doTick(0)
    stock_world.settle()
    assert a.data == ["once", "once"]
    assert b.data == c.data == ["once"]


def closed_loop(_result: Any, _error: Any) -> None:
    raise RuntimeError("Event loop is closed")


async def test_ours_applies_once_whatever_callbacks_do() -> None:
    async with hosted() as here:
        await here.become_leader()
        here.host.propose(b"once", closed_loop)
        answers = await here.proposed(b"after")
        await here.acknowledged_by("C")
        await until(lambda: len(answers) == 1, "the next one is answered")
        here.pass_ms(1_000)
        assert here.machine.commands() == [b"once", b"after"]
        assert here.core.applied_index == here.core.last_index
        assert here.machine.fatal == []
        assert here.core.is_leader is False or here.core.leader_id is not None
        indexes = [entry.index for entry in here.machine.handed]
        assert indexes == list(range(1, len(indexes) + 1))


async def test_ours_is_closed() -> None:
    """A state machine that raises stops the node at once and says so: no entry again, no half-dead node."""
    async with hosted() as here:
        await here.become_leader()
        committed: list[Any] = []

        def raises(entries: Any) -> None:
            committed.append(entries)
            raise ValueError("not a command of this release")

        here.machine.on_committed = raises
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        answers = Answers()
        here.host.propose(b"poison", answers)
        here.host.pump()
        await here.acknowledged_by("C")
        await until(lambda: bool(committed), "the entry is handed over")
        assert [str(error) for error in here.machine.fatal] == ["not a command of this release"]
        ((_, error),) = answers
        assert isinstance(error, OutcomeUnknown)
        here.pass_ms(1_000)
        assert len(committed) == 1
        assert complaints == []
