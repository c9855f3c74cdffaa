"""node.transactions: how a transaction begins, every way in which it ends, and what is true then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
import pytest_asyncio

from dqlite_py.errors import (
    Busy,
    DatabaseLocked,
    Error,
    IntegrityError,
    InterfaceError,
    NotLeader,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    Overwritten,
    SnapshotConflict,
    StorageFull,
    TransactionEnded,
)
from dqlite_py.gateway import TransactionLimits
from dqlite_py.model import WriteKey
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.transaction_calls import HostedTransaction
from dqlite_py.node.transactions import NOTHING_WRITTEN
from dqlite_py.resultcodes import NEVER_APPLIED, SESSION_EXPIRED
from tests.support.wire import until
from tests.unit.node.transaction_bench import NOW_US, READ, WRITE, TransactionBench


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[TransactionBench]:
    made = TransactionBench()
    yield made
    await made.transactions.end_all("the test is over")
    await made.writes.stop()
    made.close()


def commit(bench: TransactionBench, transaction: Any, timeout_s: float = 20.0) -> None:
    unit = transaction.finish()
    bench.transactions.commit(transaction, unit, bench.hear, Deadline(timeout_s))


# -- begin ------------------------------------------------------------------------------------------------------


async def test_it_begins_with_the_lock_and_a_confirmed_leadership(bench: TransactionBench) -> None:
    begin = bench.ask()
    await bench.settle()
    assert bench.heard == []
    bench.confirm()
    assert bench.heard == [(begin.transaction, None)]


async def test_it_waits_for_the_lock_when_leadership_is_confirmed(bench: TransactionBench) -> None:
    first = await bench.open()
    second = bench.ask()
    bench.confirm()
    await bench.settle()
    assert bench.heard == []
    bench.transactions.close(first)
    await bench.settle()
    assert bench.heard == [(second.transaction, None)]


async def test_it_waits_until_earlier_entries_are_applied(bench: TransactionBench) -> None:
    bench.behind = bench.loop.create_future()
    begin = bench.ask()
    bench.confirm()
    await bench.settle()
    assert bench.heard == []
    bench.behind.set_result(None)
    await bench.settle()
    assert bench.heard == [(begin.transaction, None)]


async def test_a_database_that_is_replaced_meanwhile_refuses_it(bench: TransactionBench) -> None:
    bench.behind = bench.loop.create_future()
    bench.ask()
    bench.confirm()
    await bench.settle()
    bench.behind.cancel()
    await bench.settle()
    ((_, error),) = bench.heard
    assert isinstance(error, OperationalError)
    bench.behind = None
    bench.heard.clear()
    assert await bench.is_free()


async def test_leadership_that_goes_while_it_catches_up_refuses_it(bench: TransactionBench) -> None:
    """Others may lead and write meanwhile: what it would read is history."""
    bench.behind = bench.loop.create_future()
    bench.ask()
    await bench.settle()
    bench.confirm()
    await bench.settle()
    assert bench.heard == []
    bench.writes.lost_leadership()
    bench.transactions.lost_leadership()
    bench.behind.set_result(None)
    await bench.settle()
    ((_, error),) = bench.heard
    assert isinstance(error, NotLeader)
    assert not bench.transactions._open


async def test_leadership_that_is_not_confirmed_refuses_it(bench: TransactionBench) -> None:
    bench.ask()
    await bench.settle()
    bench.confirm(None)
    ((_, error),) = bench.heard
    assert isinstance(error, NotLeader)
    bench.heard.clear()
    assert await bench.is_free()


async def test_a_database_that_is_not_here(bench: TransactionBench) -> None:
    bench.workers.clear()
    bench.ask()
    bench.confirm()
    await bench.settle()
    ((_, error),) = bench.heard
    assert isinstance(error, OperationalError)


async def test_a_state_that_has_moved_on_is_a_conflict(bench: TransactionBench) -> None:
    bench.ask(base_index=6)
    bench.confirm()
    await bench.settle()
    ((_, error),) = bench.heard
    assert isinstance(error, SnapshotConflict)
    assert error.code == 517
    assert error.outcome is Outcome.NOT_APPLIED
    bench.heard.clear()
    assert await bench.is_free()
    assert await bench.open(base_index=7)


async def test_waiting_too_long_says_what_for(bench: TransactionBench) -> None:
    holder = await bench.open()
    bench.ask(wait_s=0.01)
    bench.confirm()
    await until(lambda: bool(bench.heard), "the waiter hears")
    ((_, error),) = bench.heard
    assert isinstance(error, DatabaseLocked)
    assert error.code == 5
    assert "0.01 s" in error.message
    assert "another transaction" in error.message
    bench.transactions.close(holder)


async def test_who_leaves_while_waiting_holds_up_nobody(bench: TransactionBench) -> None:
    holder = await bench.open()
    bench.transactions.leave(bench.ask())
    third = bench.ask()
    bench.confirm()
    bench.heard.clear()
    bench.transactions.close(holder)
    await bench.settle()
    assert bench.heard == [(third.transaction, None)]


async def test_who_has_left_when_it_begins_is_rolled_back(bench: TransactionBench) -> None:
    begin = bench.ask()
    bench.confirm()
    await bench.settle()
    bench.transactions.leave(begin)
    bench.heard.clear()
    await bench.transactions.end_all("wait for it")
    assert await bench.is_free()


# -- statements and commit ----------------------------------------------------------------------------------------


async def test_a_commit_is_an_entry_with_the_time_and_seed_that_statements_saw(
    bench: TransactionBench,
) -> None:
    transaction = await bench.open()
    transaction.run(READ, 5)
    transaction.run(WRITE, 5)
    commit(bench, transaction)
    (live,) = bench.engine.lives
    entry = msgpack.unpackb(bench.proposed[0][0])
    assert entry[3:5] == [live.now_us, live.seed] == [NOW_US, live.seed]
    assert bench.unit(0) == [
        transaction.key.session,
        transaction.key.sequence,
        [msgpack.unpackb(WRITE)],
        bytes(8),
    ]
    assert transaction.key.sequence <= NOW_US + 1
    bench.proposed[0][1]((9, [(0, ())]), None)
    assert bench.heard == [((9, (0, ())), None)]
    assert not transaction.is_open
    bench.heard.clear()
    assert await bench.is_free()


async def test_a_transaction_that_only_read_is_no_entry(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(READ, 5)
    commit(bench, transaction)
    assert bench.heard == [(NOTHING_WRITTEN, None)]
    assert bench.proposed == []
    bench.heard.clear()
    assert await bench.is_free()


async def test_a_transaction_without_statements_touches_nothing(bench: TransactionBench) -> None:
    transaction = await bench.open()
    commit(bench, transaction)
    assert bench.heard == [(NOTHING_WRITTEN, None)]
    assert bench.engine.lives == []
    assert not transaction.is_open


async def test_violated_foreign_keys_leave_it_open(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    bench.engine.lives[0].has_open_foreign_keys = True
    with pytest.raises(IntegrityError):
        transaction.finish()
    assert transaction.is_open
    bench.engine.lives[0].has_open_foreign_keys = False
    commit(bench, transaction)
    assert len(bench.proposed) == 1


async def test_a_rollback_frees_the_database(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    transaction.undo()
    bench.transactions.close(transaction)
    await bench.settle()
    assert not bench.engine.lives[0].is_open
    assert await bench.is_free()
    assert bench.proposed == []
    with pytest.raises(TransactionEnded):
        transaction.run(READ, 5)


async def test_a_statement_that_ends_it_frees_the_database(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(READ, 5)
    bench.engine.lives[0].next_ends = True
    assert not transaction.run(WRITE, 5).is_open
    assert not transaction.is_open
    await bench.settle()
    assert await bench.is_free()


@pytest.mark.parametrize("error", [NotLeader("gone"), Overwritten("another entry is there")])
async def test_a_commit_that_certainly_failed_says_so(bench: TransactionBench, error: Error) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    commit(bench, transaction)
    bench.proposed[0][1](None, error)
    ((_, heard),) = bench.heard
    assert isinstance(heard, TransactionEnded)
    assert heard.outcome is Outcome.NOT_APPLIED
    assert len(bench.proposed) == 1  # never again


async def test_a_commit_in_a_database_that_was_made_anew_certainly_did_nothing(
    bench: TransactionBench,
) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    commit(bench, transaction)
    bench.proposed[0][1]((9, [(SESSION_EXPIRED, "the write's key is out of time", 0)]), None)
    ((_, heard),) = bench.heard
    assert isinstance(heard, TransactionEnded)
    assert heard.outcome is Outcome.NOT_APPLIED
    assert len(bench.proposed) == 1


async def test_a_refusal_of_the_log_is_passed_on(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    commit(bench, transaction)
    bench.proposed[0][1](None, Busy("too much"))
    ((_, heard),) = bench.heard
    assert isinstance(heard, Busy)


async def test_a_full_disk_refuses_the_commit_and_frees_the_database(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    bench.view.block("full", lambda: StorageFull("full"), writes_only=True)
    commit(bench, transaction)
    ((_, heard),) = bench.heard
    assert isinstance(heard, StorageFull)
    bench.view.unblock("full")
    bench.heard.clear()
    assert await bench.is_free()


async def test_an_unknown_outcome_is_asked_for_by_a_fence(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    commit(bench, transaction)
    bench.proposed[0][1](None, OutcomeUnknown("?"))
    await until(lambda: len(bench.proposed) == 2, "the fence is proposed")
    assert bench.unit(1) == [transaction.key.session, transaction.key.sequence, []]
    bench.proposed[1][1]((9, [(0, ())]), None)
    assert bench.heard == [((9, (0, ())), None)]


async def test_the_callers_own_key_is_the_units_and_the_fences(bench: TransactionBench) -> None:
    """And the session of this node goes on to other writes, which must not hide what became of the commit."""
    transaction = await bench.open()
    transaction.run(WRITE, 1.0)
    hosted = HostedTransaction(transaction, bench.transactions)
    key = WriteKey(b"the caller's own", 5)
    commit = asyncio.ensure_future(hosted.commit(5.0, key))
    await until(lambda: len(bench.proposed) == 1, "the commit is proposed")
    assert bench.unit(0)[:2] == list(key)
    bench.proposed[0][1](None, OutcomeUnknown("leadership was lost"))
    await until(lambda: len(bench.proposed) == 2, "the fence is proposed")
    assert bench.unit(1) == [*key, []]
    assert bench.writes.sessions.take("app").session == transaction.key.session
    bench.proposed[1][1]((9, [(0, ())]), None)
    assert await commit == (9, (0, ()))


async def test_a_fence_that_comes_first_means_that_nothing_happened(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    commit(bench, transaction)
    bench.proposed[0][1](None, OutcomeUnknown("?"))
    await until(lambda: len(bench.proposed) == 2, "the fence is proposed")
    bench.proposed[1][1]((9, [(NEVER_APPLIED, "void", 0)]), None)
    ((_, heard),) = bench.heard
    assert isinstance(heard, TransactionEnded)
    assert heard.outcome is Outcome.NOT_APPLIED


async def test_when_no_fence_is_answered_in_time_the_key_is_told(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    commit(bench, transaction, timeout_s=0.0)
    bench.proposed[0][1](None, OutcomeUnknown("?"))
    await until(lambda: len(bench.proposed) == 2, "the fence is proposed")
    bench.proposed[1][1](None, OutcomeUnknown("?"))
    ((_, heard),) = bench.heard
    assert isinstance(heard, OutcomeUnknown)
    assert heard.details == {"session": transaction.key.session, "sequence": transaction.key.sequence}


# -- ends by the node -----------------------------------------------------------------------------------------------


async def ended(bench: TransactionBench, transaction: Any, why: str) -> None:
    """It says why, with a certain outcome, and the database is free."""
    with pytest.raises(TransactionEnded, match=why) as caught:
        transaction.run(READ, 5)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    with pytest.raises(TransactionEnded, match=why):
        transaction.finish()
    assert not transaction.is_open
    await bench.transactions.end_all("wait for it")
    assert not any(live.is_open for live in bench.engine.lives)


async def test_an_idle_transaction_is_ended(bench: TransactionBench) -> None:
    transaction = await bench.open(limits=TransactionLimits(0.02, 60.0))
    transaction.run(WRITE, 5)
    await until(lambda: not transaction.is_open, "its end")
    await ended(bench, transaction, r"idle for 0\.02 s")
    assert await bench.is_free()


async def test_one_that_holds_the_database_too_long_is_ended(bench: TransactionBench) -> None:
    transaction = await bench.open(limits=TransactionLimits(60.0, 0.02))
    transaction.run(WRITE, 5)
    await until(lambda: not transaction.is_open, "its end")
    await ended(bench, transaction, r"held database app for 0\.02 s")
    assert await bench.is_free()


async def test_a_statement_that_runs_is_not_idle_but_holds(bench: TransactionBench) -> None:
    transaction = await bench.open(limits=TransactionLimits(0.01, 0.05))
    transaction.run(READ, 5)
    (live,) = bench.engine.lives

    def wait() -> None:
        while not live.why:
            pass

    live.during_run = wait
    with pytest.raises(TransactionEnded, match="held"):
        await bench.loop.run_in_executor(None, transaction.run, WRITE, 5)
    assert live.interrupted


async def test_lost_leadership_ends_it_and_who_waits(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    bench.ask()
    bench.confirm()
    await bench.settle()
    bench.writes.lost_leadership()
    bench.transactions.lost_leadership()
    ((_, error),) = bench.heard
    assert isinstance(error, NotLeader)
    await ended(bench, transaction, "leadership")


async def test_lost_leadership_between_finish_and_commit(bench: TransactionBench) -> None:
    transaction = await bench.open()
    transaction.run(WRITE, 5)
    unit = transaction.finish()
    bench.writes.lost_leadership()
    bench.transactions.lost_leadership()
    bench.transactions.commit(transaction, unit, bench.hear, Deadline(5))
    ((_, error),) = bench.heard
    assert isinstance(error, TransactionEnded)
    assert bench.proposed == []


async def test_a_dropped_database_ends_its_own_only(bench: TransactionBench) -> None:
    transaction = await bench.open()
    await bench.transactions.end_all("another one is dropped", "other")
    assert transaction.is_open
    await bench.transactions.end_all("its database is closed or dropped", "app")
    await ended(bench, transaction, "dropped")


async def test_a_closed_connection_ends_what_came_by_it(bench: TransactionBench) -> None:
    ours, theirs = object(), object()
    transaction = await bench.open(owner=ours, transaction_id=b"1" * 16)
    bench.ask(owner=ours, transaction_id=b"2" * 16)
    bench.transactions.caller_gone(theirs)
    assert transaction.is_open
    bench.transactions.caller_gone(ours)
    ((_, error),) = bench.heard
    assert isinstance(error, TransactionEnded)
    await ended(bench, transaction, "connection")


async def test_ids_belong_to_their_connection(bench: TransactionBench) -> None:
    ours, theirs = object(), object()
    transaction = await bench.open(owner=ours, transaction_id=b"1" * 16)
    assert bench.transactions.get(b"1" * 16, ours) is transaction
    with pytest.raises(TransactionEnded):
        bench.transactions.get(b"1" * 16, theirs)
    with pytest.raises(InterfaceError):
        bench.transactions.check_new(b"1" * 16)
    bench.transactions.drop(b"1" * 16, theirs)
    assert transaction.is_open
    bench.transactions.drop(b"1" * 16, ours)
    assert not transaction.is_open


async def test_why_it_ended_is_remembered(bench: TransactionBench) -> None:
    ours = object()
    transaction = await bench.open(owner=ours, transaction_id=b"1" * 16, limits=TransactionLimits(0.01, 60.0))
    await until(lambda: not transaction.is_open, "its end")
    with pytest.raises(TransactionEnded, match="idle"):
        bench.transactions.get(b"1" * 16, ours)


async def test_a_request_to_begin_can_be_dropped(bench: TransactionBench) -> None:
    ours = object()
    holder = await bench.open()
    bench.ask(owner=ours, transaction_id=b"1" * 16)
    bench.transactions.drop(b"1" * 16, ours)
    assert len(bench.heard) == 1
    bench.heard.clear()
    bench.transactions.close(holder)
    assert await bench.is_free()


async def test_everybody_is_served_in_order(bench: TransactionBench) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        done: asyncio.Future[Any] = bench.loop.create_future()
        begin = bench.ask()
        begin.callback = lambda transaction, _error: done.set_result(transaction)
        bench.confirm()
        transaction = await done
        order.append(number)
        await asyncio.sleep(0)
        commit(bench, transaction)

    await asyncio.gather(*(one(number) for number in range(32)))
    assert order == list(range(32))
