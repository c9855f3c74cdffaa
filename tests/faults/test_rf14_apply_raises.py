"""RF-14: in stock an exception of a replicated method ends the tick before the network is served and the
entry is applied again each tick; one of a callback applies the entry twice on that node. Ours makes a
failing statement the unit's result, stops a database only for environmental failures, and applies every
index once whatever callbacks do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import MalformedMessage, OutcomeUnknown
from dqlite_py.model import Entry, EntryKind, LogIndex, Term
from tests.faults.ours_applier import applying, units
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


CREATE = units(1, ("CREATE TABLE t(v INTEGER UNIQUE)", []))
POISON = units(2, ("INSERT INTO t VALUES (1)", []), ("INSERT INTO t VALUES (1)", []), ("NOT SQL", []))
AFTER = units(3, ("INSERT INTO t VALUES (2)", []))


async def test_ours_makes_a_failing_statement_its_units_result(tmp_path: Path) -> None:
    """The others of the same entry stand, the next entry follows, and every node does the same."""
    hashes = []
    for name in ("one", "two"):
        async with applying(tmp_path / name) as node:
            node.commit(CREATE, POISON, AFTER)
            await node.reached(3)
            assert node.fatal == []
            results = {index: units for index, units, error in node.reported if error is None}
            assert [unit[0] for unit in results[2]] == [0, 2067, 1]  # SQLITE_CONSTRAINT_UNIQUE, SQLITE_ERROR
            assert [unit[0] for unit in results[3]] == [0]
            assert await node.query("SELECT v FROM t ORDER BY v") == [(1,), (2,)]
            hashes.append(node.applier.workers["main"].hash_at(3))
    assert hashes[0] == hashes[1] is not None


async def test_ours_applies_an_entry_once_over_restarts(tmp_path: Path) -> None:
    """The applied index is in the same SQLite transaction: the log is replayed from there, whatever the log holds."""
    count = units(2, ("INSERT INTO t SELECT count(*) FROM t", []))
    again = units(3, ("INSERT INTO t SELECT count(*) FROM t", []))
    async with applying(tmp_path / "node") as node:
        node.commit(CREATE, count)
        await node.reached(2)
    for _ in range(2):
        async with applying(tmp_path / "node") as node:
            node.commit(
                CREATE, count, again
            )  # the state folder's index is older: everything is handed over again
            await node.reached(3)
            assert await node.query("SELECT v FROM t ORDER BY v") == [(0,), (1,)]


async def test_ours_skips_a_malformed_entry_alike_everywhere(tmp_path: Path) -> None:
    """Bytes that are no command have no effect and wedge nobody."""
    for number, noise in enumerate((b"", b"\xc1", b"\x97\x01\x01\xa4main" + b"\xff" * 40)):
        async with applying(tmp_path / str(number)) as node:
            bad = Entry(LogIndex(2), Term(1), EntryKind.COMMAND, noise)
            node.commit(CREATE, bad, AFTER)
            await node.reached(3)
            assert node.fatal == []
            errors = {index: error for index, _, error in node.reported}
            assert sorted(errors) == [1, 2, 3]
            assert isinstance(errors[2], MalformedMessage)  # whoever proposed it hears why
            assert await node.query("SELECT v FROM t") == [(2,)]
