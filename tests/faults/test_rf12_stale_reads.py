"""RF-12: stock has neither read index nor lease, so a deposed leader serves old data for up to 30 s;
callbacks of pending commands are lost when a snapshot jumps over their index. Ours answers a
linearizable read only after a quorum has confirmed the leadership, and every pending proposal ends in a
result or a stated outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dqlite_py.errors import Error, Outcome, OutcomeUnknown, Overwritten
from dqlite_py.model import LogIndex, Snapshot
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.tickets import Deadline
from tests.faults.ours import CoreWorld, configuration
from tests.faults.ours_host import command, hosted
from tests.faults.stock import Outcomes, StockWorld
from tests.support.wire import until

pytestmark = pytest.mark.rf("RF-12")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, b, _c = stock_world.start("ABC", appendEntriesUseBatch=True)
    stock_world.elect("A")
    a.op("old")
    stock_world.run(1.0)
    stock_world.disconnect("AB")
    while b.state != "leader":
        stock_world.step()
    outcomes = Outcomes()
    b.op("new", callback=outcomes.callback("new"))
    stock_world.run(1.0)
    assert outcomes.succeeded() == ["new"]
    assert a.state == "leader"  # it says so, and this is the only question stock can be asked
    assert a.data == ["old"]


def test_stock_loses_callbacks_that_a_snapshot_jumps_over(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC", logCompactionMinEntries=10)
    stock_world.elect("A")
    stock_world.isolate("A")
    a.doTick(0)
    outcomes = Outcomes()
    a.op("pending", callback=outcomes.callback("pending"))
    a.doTick(0)
    stock_world.elect("B", among="BC")
    for value in range(30):
        b.op(value)
        b.doTick(0)
        stock_world.settle("BC", rounds=1)
    stock_world.connect("AB", "AC")
    stock_world.settle(rounds=60)
    assert a.data == b.data == c.data
    assert a.state == "follower"
    assert outcomes == {}  # the client waits for ever


def test_ours_is_closed() -> None:
    """The deposed leader still believes in itself when it is asked; the read fails, it is never answered."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    a.propose(b"old")
    world.pump()
    world.heartbeat("A")
    world.isolate("A")
    b = world.elect("B", among="BC")
    b.propose(b"new")
    world.pump("BC")
    world.heartbeat("B", among="BC")
    assert b.acknowledged == [b"new"]
    assert a.is_leader
    a.core.read_index(7, world.now)
    a.settle_effects()
    world.run(5_000, among="A")
    assert a.reads_ready == []
    assert a.reads_failed == [7]


def test_ours_answers_reads_that_a_quorum_confirmed() -> None:
    world = CoreWorld("ABC")
    a = world.elect("A")
    a.propose(b"value")
    world.pump()
    assert a.acknowledged == [b"value"]
    world.queues.clear()
    a.core.read_index(1, world.now)
    a.settle_effects()
    assert a.reads_ready == []  # its own word is not enough
    world.deliver("A", "B")
    world.deliver("B", "A")
    assert a.reads_ready == [(1, a.core.commit_index)]


def test_ours_does_not_count_confirmations_from_before_the_read() -> None:
    """A heartbeat round that began earlier proves nothing about now."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.now += world.settings.heartbeat_ms
    a.tick()
    world.deliver("A", "B")
    world.deliver("A", "C")
    late = [*world.queue("B", "A"), *world.queue("C", "A")]
    assert late
    world.queues.clear()
    a.core.read_index(1, world.now)
    a.settle_effects()
    world.hand("A", *late)
    assert a.reads_ready == []
    world.pump()
    world.heartbeat("A")
    assert [read_id for read_id, _ in a.reads_ready] == [1]


def test_ours_refuses_reads_before_its_first_commit() -> None:
    """A new leader does not know yet what its predecessor committed (thesis 6.4)."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    a.propose(b"value")
    world.deliver("A", "B")
    world.deliver("B", "A")
    assert a.acknowledged == [b"value"]  # B stores it and does not know that it is committed
    world.isolate("A")
    b = world["B"]
    world.now += 10_000
    b.campaign()
    for _ in range(3):
        world.deliver("B", "C")
        if not b.is_leader:
            world.deliver("C", "B")
    assert b.is_leader
    b.core.read_index(1, world.now)
    b.settle_effects()
    assert b.reads_ready == []
    world.pump("BC")
    world.heartbeat("B", among="BC")
    assert b.reads_failed == [1] or b.reads_ready[0][1] >= a.core.commit_index


async def test_ours_answers_writers_that_a_snapshot_jumps_over() -> None:
    async with hosted() as here:
        await here.become_leader()
        answers = [await here.proposed(b"pending %d" % n) for n in range(3)]
        here.pass_ms(3_000)
        assert not here.core.is_leader
        last = here.core.last_index
        here.follow("B", (0, 0), commit=last)
        here.host.install(Snapshot(LogIndex(last + 10), here.core.term, configuration("ABC")))
        for heard in answers:
            ((_, error),) = heard
            assert isinstance(error, OutcomeUnknown)
            assert error.outcome is Outcome.UNKNOWN


async def test_ours_answers_writers_whose_entries_can_no_longer_be_committed() -> None:
    """A deposed leader on a cluster that then has nothing to do: terms never fall along a log, so an entry of a
    later term committed below theirs decides all of them; nobody has to write up to their index first."""
    async with hosted() as here:
        await here.become_leader()
        first = here.core.last_index + 1
        answers = [await here.proposed(b"pending %d" % n) for n in range(5)]
        term = here.core.term
        here.follow("B", (first - 1, term), command(first, term + 1), commit=first)
        await until(lambda: here.core.applied_index == first, "the new leader's first entry is applied")
        assert [type(error) for heard in answers for _, error in heard] == [Overwritten] * 5


async def test_ours_answers_readers_when_it_stops() -> None:
    """One waits for the leader's confirmation, one for the next round: both hear why they get no answer."""
    world = CoreWorld("ABC")
    world.elect("A")
    core = world["B"].core
    asked = asyncio.Event()

    async def call(*_: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    reads = ReadBarriers(
        loop=loop,
        core=core,
        view=ClusterView(loop, core),
        applier=lambda: None,
        pump=lambda: None,
        now_ms=lambda: world.now,
        call=call,
    )
    heard: list[tuple[Any, Error | None]] = []
    reads.barrier("main", lambda index, error: heard.append((index, error)), Deadline(20))
    await asyncio.wait_for(asked.wait(), 20)
    reads.barrier("main", lambda index, error: heard.append((index, error)), Deadline(20))
    reads.stop()
    await asyncio.sleep(0.01)
    assert len(heard) == 2
    assert all(isinstance(error, Error) for _, error in heard)


class _Barriers:
    """The barriers of one node of a CoreWorld; `answer` hands on what its core says, as the host does."""

    def __init__(self, world: CoreWorld, name: str, call: Any = None) -> None:
        self.node = world[name]
        loop = asyncio.get_running_loop()
        self.view = ClusterView(loop, self.node.core)
        self.view.ready_term = self.node.core.term
        self.heard: list[tuple[str, Any, Error | None]] = []
        self.reads = ReadBarriers(
            loop=loop,
            core=self.node.core,
            view=self.view,
            applier=lambda: self,  # type: ignore[arg-type, return-value]
            pump=self.node.settle_effects,
            now_ms=lambda: world.now,
            call=call,
        )

    def when_applied(self, _database: str, _index: int) -> None:
        return None

    async def ask(self, *names: str) -> None:
        for name in names:
            self.reads.barrier(
                "main", lambda index, error, name=name: self.heard.append((name, index, error)), Deadline(20)
            )
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def answer(self) -> None:
        ready, self.node.reads_ready = self.node.reads_ready, []
        failed, self.node.reads_failed = self.node.reads_failed, []
        for read_id, index in ready:
            self.reads.ready(read_id, index)
        for read_id in failed:
            self.reads.failed(read_id)


async def test_ours_reads_share_a_round_and_later_ones_take_the_next() -> None:
    world = CoreWorld("ABC")
    a = world.elect("A")
    a.propose(b"one")
    world.pump()
    world.heartbeat("A")
    here = _Barriers(world, "A")
    await here.ask("first", "second")
    assert len(here.reads._asked) == 1
    assert here.heard == []
    first = a.core.commit_index
    a.propose(b"two")
    await here.ask("third")  # the round under way began before it
    assert len(here.reads._asked) == 1
    world.pump()
    here.answer()
    assert [(name, error) for name, _, error in here.heard] == [("first", None), ("second", None)]
    assert {index for _, index, _ in here.heard} == {first}
    assert len(here.reads._asked) == 1
    world.pump()
    here.answer()
    assert here.heard[2] == ("third", a.core.commit_index, None)
    assert here.reads._asked == {}


async def test_ours_asks_the_next_leader_when_leadership_is_lost() -> None:
    called: list[Any] = []

    async def call(target: Any, method: str, *_: Any) -> Any:
        called.append((target, method))
        return 77

    world = CoreWorld("ABC")
    a = world.elect("A")
    a.propose(b"one")
    world.pump()
    world.heartbeat("A")
    here = _Barriers(world, "A", call)
    world.isolate("A")
    await here.ask("read")
    world.elect("B", among="BC")
    world.connect("AB", "AC")
    world.heartbeat("B")
    assert not a.is_leader
    here.answer()
    await until(lambda: here.heard != [], "the read is answered")
    assert here.heard == [("read", 77, None)]
    assert called == [(world["B"].core.node_id, "raft.read_index")]


async def test_ours_goes_on_after_an_answer_that_is_no_index() -> None:
    answers: list[Any] = [["nonsense"], 78]

    async def call(*_: Any) -> Any:
        return answers.pop(0)

    world = CoreWorld("ABC")
    world.elect("A")
    world.heartbeat("A")
    here = _Barriers(world, "B", call)
    await here.ask("first")
    await until(lambda: len(here.heard) == 1, "the first is refused")
    assert isinstance(here.heard[0][2], Error)
    await here.ask("second")
    await until(lambda: len(here.heard) == 2, "the second is answered")
    assert here.heard[1] == ("second", 78, None)
