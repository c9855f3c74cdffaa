"""RF-13: stock reports failures that are not true: LEADER_CHANGED for a command that was committed,
nothing at all after a reconnect, another command's SUCCESS after a restart, an exception after
queueing. Ours says NOT_APPLIED only when that is certain (refused before anything was appended, or
another entry was committed at its index), UNKNOWN otherwise, and correlates replies by connection."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pysyncobj.pipe_notifier as pipe_notifier
import pytest
from pysyncobj.fast_queue import FastQueue

from dqlite_py.client_sessions import ClientSessions
from dqlite_py.command import encode_unit
from dqlite_py.errors import (
    Busy,
    Error,
    JournalFailed,
    NotLeader,
    Outcome,
    OutcomeUnknown,
    Overwritten,
    from_wire,
)
from dqlite_py.limits import PENDING_UNITS_MAX
from dqlite_py.model import NodeId
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.forwarding import pack_outcome
from dqlite_py.node.pending_write import PendingWrite
from dqlite_py.node.proposals import DatabaseProposals
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.writes import Writes
from dqlite_py.raft.rpc import RpcContext, RpcLost, RpcNotSent
from dqlite_py.wire.rpc import error_body
from tests.faults.ours import CoreWorld, payloads, propose_all
from tests.faults.ours_host import Answers, command, hosted
from tests.faults.stock import NullPoller, Outcomes, SimNode, StockWorld
from tests.support.wire import Relay, Station, stations, until

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


def test_ours_is_closed() -> None:
    """The leader loses its office while its command is committed: it waits, and hears the truth."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    a.propose(b"pay")
    world.deliver("A", "C")  # stored by a majority; the acknowledgement never arrives
    world.isolate("A")
    world.run_until(lambda: not a.is_leader, among="A")
    assert a.waiting  # not reported as failed
    world.elect("C", among="BC")
    world.connect("AB", "AC")
    world.run(2_000)
    assert a.acknowledged == [b"pay"]
    assert a.applied == world["B"].applied == world["C"].applied == [b"pay"]


def test_ours_says_overwritten_when_another_entry_took_the_index() -> None:
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.isolate("A")
    a.propose(b"lost")
    world.run_until(lambda: not a.is_leader, among="A")
    b = world.elect("B", among="BC")
    b.propose(b"other")
    world.pump("BC")
    world.heartbeat("B", among="BC")
    assert a.overwritten == []  # truncation is no proof: only what is committed at the index is
    world.connect("AB", "AC")
    world.run(2_000)
    assert a.overwritten == [b"lost"]
    assert a.acknowledged == []


def test_ours_refuses_before_it_appends() -> None:
    world = CoreWorld("ABC", uncommitted_bytes_max=1_000)
    a = world.elect("A")
    with pytest.raises(NotLeader) as caught:
        world["B"].propose(b"value")
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert caught.value.details["leader_id"] == a.core.node_id
    world.isolate("A")
    propose_all(a, payloads("x" * 90, 10))
    last = a.last_index
    with pytest.raises(Busy) as refused:
        a.propose(b"x" * 200)
    assert refused.value.outcome is Outcome.NOT_APPLIED
    assert a.last_index == last
    assert len(a.waiting) == 10


async def test_ours_knows_whether_a_request_can_have_arrived() -> None:
    """A connection that breaks: certainly not sent before, perhaps executed afterwards, never silence."""
    one, two = Station(1), Station(2)
    arrived = asyncio.Event()

    async def pay(_context: RpcContext, _body: Any) -> Any:
        arrived.set()
        await asyncio.Event().wait()

    two.transport.register("pay", pay)
    async with stations(one, two), Relay(two.address) as relay:
        with pytest.raises(RpcNotSent):
            await one.transport.call(two.id, "pay", {}, 0.05)  # there is no connection
        await one.reach(two, relay.address)
        call = asyncio.ensure_future(one.transport.call(two.id, "pay", {}, 20))
        await asyncio.wait_for(arrived.wait(), 20)
        relay.cut()
        with pytest.raises(RpcLost):
            await call


async def test_ours_answers_nobody_with_an_old_reply() -> None:
    """A node restarts and asks anew; the reply to its first life's request meets nobody."""
    two = Station(2)
    released = asyncio.Event()
    asked: list[str] = []

    async def pay(_context: RpcContext, body: Any) -> Any:
        asked.append(body)
        if body == "old":
            await released.wait()
        return f"{body} is done"

    two.transport.register("pay", pay)
    first, second = Station(1), Station(1)
    async with stations(two, second):
        async with stations(first):
            await first.reach(two)
            lost = asyncio.ensure_future(first.transport.call(two.id, "pay", "old", 20))
            await until(lambda: asked == ["old"], "the old request is at work")
        with pytest.raises(RpcLost):
            await lost
        await second.reach(two)
        new = asyncio.ensure_future(second.transport.call(two.id, "pay", "new", 20))
        released.set()
        assert await asyncio.wait_for(new, 20) == "new is done"


async def test_ours_answers_every_proposal_once_and_truly() -> None:
    async with hosted() as here:
        await here.become_leader()
        kept = await here.proposed(b"kept")
        await here.acknowledged_by("C")
        lost = await here.proposed(b"lost")
        index, term = here.core.last_index, here.core.term
        here.follow("B", (index - 1, term), command(index, term + 1), commit=index - 1)
        await here.durable()
        assert kept == [(f"result of {index - 1}", None)]
        assert lost == []  # truncated is not decided
        here.follow("B", (index, term + 1), commit=index)
        await until(lambda: here.core.applied_index == index, "the other entry is applied")
        ((_, error),) = lost
        assert isinstance(error, Overwritten)
        assert error.outcome is Outcome.NOT_APPLIED
        refused = Answers()
        here.host.propose(b"refused", refused)
        here.host.pump()
        ((_, error),) = refused
        assert isinstance(error, NotLeader)
        assert error.outcome is Outcome.NOT_APPLIED
        assert len(kept) == len(lost) == len(refused) == 1


@pytest.mark.parametrize("end", ["stop", "disk failure"])
async def test_ours_says_unknown_when_it_ends(end: str) -> None:
    async with hosted() as here:
        await here.become_leader()
        pending = await here.proposed(b"pending")
        if end == "stop":
            here.host.destroy()
        else:
            here.disk.fails_on_sync = True
            here.host.propose(b"more", Answers())
            here.host.pump()
            await until(lambda: bool(here.machine.fatal), "the node failed")
            assert isinstance(here.machine.fatal[0], JournalFailed)
        ((_, error),) = pending
        assert isinstance(error, OutcomeUnknown)
        assert error.outcome is Outcome.UNKNOWN


UNIT = encode_unit([("INSERT INTO t VALUES (1)", [])])


async def forwarded(*answers: Any) -> tuple[Answers, list[str]]:
    """A write on a follower; the leader's `answers` come one after the other, the last for ever."""
    asked: list[str] = []

    async def call(_leader: NodeId, method: str, _body: Any, _timeout_s: float) -> Any:
        asked.append(method)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    world = CoreWorld("ABC")
    world.elect("A")
    view = ClusterView(asyncio.get_running_loop(), world["B"].core)
    writes = Writes(
        loop=asyncio.get_running_loop(),
        view=view,
        propose=lambda *_: None,
        pump=lambda: None,
        call=call,
        make_proposals=lambda *_: None,
        now_us=lambda: 1,
        databases=dict,
        sessions=ClientSessions(lambda: 1),
    )
    heard = Answers()
    writes.submit(PendingWrite("main", b"", heard, Deadline(20), once=False, unit=UNIT))
    await until(lambda: bool(heard), "the writer hears")
    await writes.stop()
    return heard, asked


async def test_ours_repeats_only_what_certainly_did_not_happen() -> None:
    done = [pack_outcome((7, (0, ())))]
    heard, asked = await forwarded(RpcNotSent("no connection"), NotLeader("not I"), done)
    assert heard == [((7, (0, ())), None)]
    assert len(asked) == 3
    not_i = error_body(NotLeader("not I any more, and this one was not proposed"))
    heard, asked = await forwarded([not_i], [not_i], done)
    assert heard == [((7, (0, ())), None)]
    assert len(asked) == 3
    heard, asked = await forwarded(RpcLost("the connection broke"), done)
    ((_, error),) = heard
    assert isinstance(error, OutcomeUnknown)
    assert len(asked) == 1


async def test_ours_promises_nothing_after_a_bug_on_this_side() -> None:
    heard, _ = await forwarded(RuntimeError("a bug on this side, after the request was sent"))
    ((_, error),) = heard
    assert error is not None
    assert error.outcome is Outcome.UNKNOWN


async def test_ours_promises_nothing_after_a_bug_on_the_leader() -> None:
    one, two = Station(1), Station(2)

    async def breaks(_context: RpcContext, _body: Any) -> Any:
        raise RuntimeError("a bug on the leader, after it had proposed")

    two.transport.register("leader.write", breaks)
    async with stations(one, two):
        await one.reach(two)
        with pytest.raises(Error) as caught:
            await one.transport.call(two.id, "leader.write", {}, 20)
        assert caught.value.outcome is Outcome.UNKNOWN


def test_ours_promises_nothing_after_an_error_that_only_a_newer_release_knows() -> None:
    assert from_wire(["AnErrorOfTheNextRelease", "?", None, {}]).outcome is Outcome.UNKNOWN


def test_ours_refuses_before_it_queues() -> None:
    """Full means that nothing of the refused write is queued, and that all others are proposed."""
    proposed: list[bytes] = []
    soon: list[Any] = []
    queue = DatabaseProposals(
        "main",
        propose=lambda payload, done: proposed.append(payload),
        now_us=lambda: 1,
        state_hash=lambda _database: None,
        call_soon=soon.append,
        call_later=lambda *_: None,
        pump=lambda: None,
    )
    accepted = Answers()
    for _ in range(PENDING_UNITS_MAX):
        queue.submit(UNIT, accepted, Deadline(20))
    refused = Answers()
    with pytest.raises(Busy) as caught:
        queue.submit(UNIT, refused, Deadline(20))
    assert caught.value.outcome is Outcome.NOT_APPLIED
    queue.fail_queued(NotLeader("leadership went away"))
    assert len(accepted) == PENDING_UNITS_MAX
    assert all(isinstance(error, NotLeader) for _, error in accepted)
    assert refused == proposed == []
