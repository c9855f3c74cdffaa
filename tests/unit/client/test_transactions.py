"""Interactive transactions of a program: what is sent, when they are over, and what became of a COMMIT."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import msgpack
import pytest

from dqlite_py import dbapi
from dqlite_py.client import attempts, transactions
from dqlite_py.client.calls import Calls
from dqlite_py.client.gateway import AsyncRemoteGateway
from dqlite_py.client.shared import shared_link
from dqlite_py.errors import (
    Busy,
    DatabaseLocked,
    Error,
    IntegrityError,
    MalformedMessage,
    NeverApplied,
    NodeStopped,
    NoLeader,
    NotLeader,
    OperationalError,
    OutcomeUnknown,
    SnapshotConflict,
    StorageFull,
    TransactionEnded,
)
from dqlite_py.gateway import Interrupt, StatementResult, TransactionLimits, UnitResult
from tests.unit.client.cluster import BODY, Script, asked, cutting, gateway, nodes, settle, unit, wait_until

WAIT_S = 20.0
LIMITS = TransactionLimits(10.0, 60.0)
KEY = [bytes(16), 1_700_000_000_000_000]
DONE = msgpack.packb([0, [[1, 5, None, None]]])


def methods(**more: Any) -> dict[str, Any]:
    """Of a node that does what it is asked for."""
    usual = {"begin": KEY, "run": [DONE, True, None], "commit": 9, "rollback": None, "interrupt": None}
    return {
        f"tx.{name}": answer if callable(answer) else Script(answer)
        for name, answer in {**usual, **more}.items()
    }


def test_a_transaction() -> None:
    selected = [msgpack.packb([0, [[1, 5, None, None], [-1, 5, ["a"], [[3]]]]]), True, ["INT"]]
    with nodes(methods(run=Script([DONE, True, None], selected))) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS, base_index=8)
        assert transaction.run(BODY, WAIT_S) == [StatementResult(1, 5)]
        assert transaction.run(BODY, WAIT_S) == [
            StatementResult(1, 5),
            StatementResult(-1, 5, ("a",), ((3,),), ("INT",)),
        ]
        assert transaction.is_open
        assert transaction.commit(WAIT_S) == UnitResult(9, [])
        assert not transaction.is_open
        [begin], [run, _], [commit] = (asked(peers[0], f"tx.{name}") for name in ("begin", "run", "commit"))
        assert len(begin["id"]) == 16
        assert begin["id"] == run["id"] == commit["id"]
        assert (
            begin["database"],
            begin["wait_s"],
            begin["idle_s"],
            begin["hold_s"],
            begin["base_index"],
        ) == (
            "app",
            3.0,
            10.0,
            60.0,
            8,
        )
        assert run["body"] == BODY
        assert commit["key"][1] > KEY[1]  # type: ignore[operator]
        for call in (lambda: transaction.run(BODY, WAIT_S), lambda: transaction.commit(WAIT_S)):
            with pytest.raises(TransactionEnded):
                call()
        transaction.rollback()
        assert asked(peers[0], "tx.rollback") == []


@pytest.mark.parametrize("failure", [DatabaseLocked("locked", code=5), SnapshotConflict("changed", code=517)])
def test_begin_is_refused(failure: Error) -> None:
    with nodes(methods(begin=failure)) as peers:
        with pytest.raises(type(failure)) as caught:
            gateway(*peers).begin("app", 3.0, LIMITS)
        assert caught.value.code == failure.code
        assert len(asked(peers[0], "tx.begin")) == 1


def test_begin_finds_the_leader() -> None:
    with nodes(methods(), methods()) as peers:
        peers[0].methods["tx.begin"] = Script(NotLeader("not I", leader_address=peers[1].address))
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        transaction.run(BODY, WAIT_S)
        assert len(asked(peers[1], "tx.run")) == 1
        transaction.rollback()
        assert len(asked(peers[1], "tx.rollback")) == 1


def test_a_begin_without_an_answer_is_taken_back() -> None:
    with nodes(methods(begin=Script("nonsense"))) as peers:
        with pytest.raises(MalformedMessage):
            gateway(*peers).begin("app", 3.0, LIMITS)
        wait_until(lambda: asked(peers[0], "tx.rollback") != [])
        assert asked(peers[0], "tx.rollback")[0]["id"] == asked(peers[0], "tx.begin")[0]["id"]


def test_a_begin_whose_answer_came_too_late_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "TRIAL_S", 0.05)
    monkeypatch.setattr(attempts, "MARGIN_S", 0.05)

    async def never(_body: Any) -> None:
        await asyncio.Event().wait()

    with nodes(methods(begin=Script(never, KEY)), leader=-1) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        wait_until(lambda: asked(peers[0], "tx.rollback") != [])
        late, begun = asked(peers[0], "tx.begin")
        assert [body["id"] for body in asked(peers[0], "tx.rollback")] == [late["id"]] != [begun["id"]]
        assert transaction.is_open


def test_a_failing_statement_leaves_the_transaction_open() -> None:
    failed = [msgpack.packb([2067, "UNIQUE constraint failed: t.k", 1]), True, None]
    with nodes(methods(run=Script(failed, [DONE, True, None]))) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        with pytest.raises(IntegrityError) as caught:
            transaction.run(BODY, WAIT_S)
        assert (caught.value.code, caught.value.details) == (2067, {"statement": 1})
        assert transaction.is_open
        transaction.run(BODY, WAIT_S)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([msgpack.packb([1811, "ROLLBACK by a trigger", 0]), False, None], IntegrityError),
        (TransactionEnded("idle for too long"), TransactionEnded),
        (cutting, TransactionEnded),
    ],
)
def test_a_statement_that_ends_the_transaction(answer: Any, error: type[Error]) -> None:
    with nodes(methods(run=cutting(lambda: peers[0]) if answer is cutting else answer)) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        with pytest.raises(error):
            transaction.run(BODY, WAIT_S)
        assert not transaction.is_open
        with pytest.raises(TransactionEnded):
            transaction.commit(WAIT_S)
        assert asked(peers[0], "tx.commit") == []


# -- commit -----------------------------------------------------------------------------------------------------


def test_deferred_foreign_keys_leave_it_open() -> None:
    with nodes(methods(commit=Script(IntegrityError("FOREIGN KEY constraint failed", code=787), 9))) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        with pytest.raises(IntegrityError):
            transaction.commit(WAIT_S)
        assert transaction.is_open
        assert transaction.commit(WAIT_S).log_index == 9


@pytest.mark.parametrize("failure", [StorageFull("full"), TransactionEnded("lost leadership")])
def test_a_commit_that_certainly_failed(failure: Error) -> None:
    with nodes(methods(commit=failure)) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        with pytest.raises(type(failure)):
            transaction.commit(WAIT_S)
        assert not transaction.is_open


@pytest.mark.parametrize("lost", ["cut", "unknown", "nonsense"])
@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_without_an_answer_is_asked_for(lost: str, committed: bool) -> None:
    answers: dict[str, Any] = {
        "cut": cutting(lambda: peers[0]),
        "unknown": OutcomeUnknown("the leader is gone"),
        "nonsense": "nonsense",
    }
    void = NeverApplied("the key is void", code=4 | 202 << 8)
    resolve = Script(unit(log_index=9) if committed else void)
    with nodes({**methods(commit=answers[lost]), "sql.resolve": resolve}) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        if committed:
            assert transaction.commit(WAIT_S) == UnitResult(9, [])
        else:
            with pytest.raises(TransactionEnded, match="nothing of the transaction happened"):
                transaction.commit(WAIT_S)
        assert not transaction.is_open
        [commit], [asked_for] = asked(peers[0], "tx.commit"), asked(peers[0], "sql.resolve")
        assert commit["key"] == asked_for["key"]


def test_a_commit_that_a_node_was_too_busy_for_leaves_nothing_open() -> None:
    with nodes(methods(commit=Script(Busy("much")))) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        with pytest.raises(Busy):
            transaction.commit(WAIT_S)
        assert not transaction.is_open
        wait_until(lambda: len(asked(peers[0], "tx.rollback")) == 1)


def test_a_commit_whose_outcome_stays_unknown_tells_its_key() -> None:
    answering = {**methods(commit=OutcomeUnknown("lost")), "sql.resolve": Script(NoLeader("none"))}
    with nodes(answering) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        with pytest.raises(OutcomeUnknown) as caught:
            transaction.commit(0.3)
        [commit] = asked(peers[0], "tx.commit")
        assert caught.value.details == dict(zip(("session", "sequence"), commit["key"], strict=True))


# -- interrupts and what is dropped ------------------------------------------------------------------------------


class Endless:
    def __init__(self) -> None:
        self.started = threading.Event()
        self._over: asyncio.Event | None = None

    async def run(self, _body: Any) -> Any:
        self._over = asyncio.Event()
        self.started.set()
        await self._over.wait()
        return [msgpack.packb([9, "interrupted", 0]), True, None]

    async def interrupt(self, _body: Any) -> Any:
        assert self._over is not None
        self._over.set()


def test_interrupt_ends_the_statement() -> None:
    endless, interrupt = Endless(), Interrupt()
    with nodes(methods(run=endless.run, interrupt=endless.interrupt)) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)

        def request() -> None:
            assert endless.started.wait(WAIT_S)
            interrupt.request()

        thread = threading.Thread(target=request)
        thread.start()
        with pytest.raises(OperationalError, match="interrupted"):
            transaction.run(BODY, WAIT_S, interrupt)
        thread.join()
        assert transaction.is_open


async def test_a_cancelled_statement_ends_the_transaction() -> None:
    endless = Endless()
    with nodes(methods(run=endless.run, interrupt=endless.interrupt)) as peers:
        remote = AsyncRemoteGateway(shared_link([peers[0].address], None))
        transaction = await remote.begin("app", 3.0, LIMITS)
        task = asyncio.create_task(transaction.run(BODY, WAIT_S))
        assert await asyncio.to_thread(endless.started.wait, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: asked(peers[0], "tx.rollback") != [])
        assert asked(peers[0], "tx.interrupt") != []
        assert not transaction.is_open
        await transaction.rollback()


async def test_async_transaction() -> None:
    with nodes(methods()) as peers:
        remote = AsyncRemoteGateway(shared_link([peers[0].address], None))
        transaction = await remote.begin("app", 3.0, LIMITS)
        assert await transaction.run(BODY, WAIT_S) == [StatementResult(1, 5)]
        assert (await transaction.commit(WAIT_S)).log_index == 9
        transaction = await remote.begin("app", 3.0, LIMITS)
        await transaction.rollback()
        assert not transaction.is_open


async def test_what_begins_when_its_caller_has_just_left_is_rolled_back() -> None:
    with nodes(methods()) as peers:
        shared = shared_link([peers[0].address], None)
        task = asyncio.create_task(AsyncRemoteGateway(shared).begin("app", 3.0, LIMITS))
        await asyncio.sleep(0)  # it is on its way, and this loop stands still until it has begun
        wait_until(lambda: kept(peers[0]) == 1)
        settle(shared)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await asyncio.to_thread(wait_until, lambda: asked(peers[0], "tx.rollback") != [])
        assert kept(peers[0]) == 0


async def test_a_commit_that_was_not_sent_did_not_happen_and_leaves_nothing_open() -> None:
    with nodes(methods()) as peers:
        shared = shared_link([peers[0].address], None)

        async def too_late(link: Any) -> None:
            transaction = await transactions.begin(link, "app", 3.0, LIMITS, None)
            connection = link.caller.connections.open_to(peers[0].address)
            connection.pause_writing()  # the socket is full
            with pytest.raises(TransactionEnded, match="did not reach the node"):
                await transaction.commit(0.2)
            connection.resume_writing()

        await Calls(shared).wait(too_late)
        await asyncio.to_thread(wait_until, lambda: asked(peers[0], "tx.rollback") != [])
        assert asked(peers[0], "tx.commit") == []


@pytest.mark.parametrize(
    "answer", ["nonsense", OutcomeUnknown("tx.run failed"), NotLeader("not I"), NodeStopped("stopping")]
)
def test_statements_of_which_nothing_is_known_end_the_transaction(answer: Any) -> None:
    """They may be part of it, and a COMMIT would make them durable after all."""
    with nodes(methods(run=Script(answer))) as peers:
        transaction = gateway(*peers).begin("app", 3.0, LIMITS)
        with pytest.raises(TransactionEnded, match="nothing of it happened"):
            transaction.run(BODY, WAIT_S)
        assert not transaction.is_open
        wait_until(lambda: asked(peers[0], "tx.rollback") != [])


async def test_a_cancelled_rollback_happens() -> None:
    """Also when it was still here, to be sent: the writer would stay open at its node."""
    with nodes(methods()) as peers:
        shared = shared_link([peers[0].address], None)
        link = shared.background.resource

        async def cancelled(_link: Any) -> None:
            transaction = await transactions.begin(link, "app", 3.0, LIMITS, None)
            connection = link.caller.connections.open_to(peers[0].address)
            connection.pause_writing()  # the socket is full
            task = asyncio.create_task(transaction.rollback())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            connection.resume_writing()

        await Calls(shared).wait(cancelled)
        await asyncio.to_thread(wait_until, lambda: asked(peers[0], "tx.rollback") != [])


def test_a_connection_that_is_collected_on_the_links_own_thread() -> None:
    """Where nobody may wait for the link."""
    opening = {"sql.open": Script(None), "sql.is_read": Script(False)}
    with nodes({**methods(), **opening}) as peers:
        remote = gateway(*peers)
        background = shared_link([peers[0].address], None).background
        gc.disable()
        try:
            circle: list[Any] = [dbapi.connect(remote, "app")]
            circle[0].execute("BEGIN IMMEDIATE")
            circle.append(circle)
            del circle

            async def collect() -> None:
                gc.collect()

            background.submit(collect()).result(WAIT_S)
        finally:
            gc.enable()
        wait_until(lambda: asked(peers[0], "tx.rollback") != [])


def kept(peer: Any) -> int:
    """What is open on the connection to a node, and keeps it."""
    caller = Calls(shared_link([peer.address], None)).background.resource.caller
    connection = caller.connections.open_to(peer.address)
    return 0 if connection is None else connection.keepers


def test_a_dropped_transaction_is_rolled_back() -> None:
    with nodes(methods()) as peers:
        remote = gateway(*peers)
        remote.begin("app", 3.0, LIMITS)
        gc.collect()
        wait_until(lambda: asked(peers[0], "tx.rollback") != [])


def test_its_connection_is_kept_until_it_is_over() -> None:
    """The node rolls a transaction back when the connection is closed by which it was begun."""
    with nodes(methods()) as peers:
        remote = gateway(*peers)
        transaction = remote.begin("app", 3.0, LIMITS)
        caller = Calls(shared_link([peers[0].address], None)).background.resource.caller
        connection = caller.connections.open_to(peers[0].address)
        assert connection is not None
        assert connection.keepers == 1
        transaction.rollback()
        transaction.rollback()
        assert connection.keepers == 0


class Held:
    """An answer to COMMIT that comes when the test says so."""

    def __init__(self, answer: Any) -> None:
        self.begun = threading.Event()
        self.open = asyncio.Event()
        self._answer = answer

    async def __call__(self, _body: Any) -> Any:
        self.loop = asyncio.get_running_loop()
        self.begun.set()
        await self.open.wait()
        if isinstance(self._answer, Error):
            raise self._answer
        return self._answer

    def go(self) -> None:
        self.loop.call_soon_threadsafe(self.open.set)


@pytest.mark.parametrize(
    "answer", [9, IntegrityError("FOREIGN KEY constraint failed", code=787), Busy("too much at once")]
)
async def test_a_cancelled_commit_tells_its_key_and_leaves_nothing_open(answer: Any) -> None:
    held = Held(answer)
    with nodes(methods(commit=held)) as peers:
        remote = AsyncRemoteGateway(shared_link([peers[0].address], None))
        transaction = await remote.begin("app", 3.0, LIMITS)
        committing = asyncio.create_task(transaction.commit(WAIT_S))
        assert await asyncio.to_thread(held.begun.wait, WAIT_S)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await committing
        [sent] = asked(peers[0], "tx.commit")
        assert [*caught.value.write_key] == sent["key"]  # type: ignore[attr-defined]
        assert sent["key"][0].hex() in caught.value.__notes__[0]
        await asyncio.to_thread(wait_until, lambda: not transaction.is_open)
        assert not asked(peers[0], "tx.rollback")  # it may be committed yet
        connection = Calls(
            shared_link([peers[0].address], None)
        ).background.resource.caller.connections.open_to(peers[0].address)
        assert connection is not None
        assert connection.keepers == 1
        held.go()
        await asyncio.to_thread(wait_until, lambda: connection.keepers == 0)
        if isinstance(answer, Error):
            await asyncio.to_thread(wait_until, lambda: bool(asked(peers[0], "tx.rollback")))
        else:
            assert not asked(peers[0], "tx.rollback")
