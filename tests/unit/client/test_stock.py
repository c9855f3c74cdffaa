"""The fallback to stock dqlite servers against a scripted one: who leads, what is tried again, what an error means."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.client.stock import AsyncStockGateway, StockGateway, pool
from dqlite_py.client.stock.connection import Unreachable
from dqlite_py.client.stock.discovery import Discovery
from dqlite_py.client.stock.failures import Doubtful, Refused, checked
from dqlite_py.client.stock.statements import asks, decode_body, kind_of, plain_rows
from dqlite_py.client.stock.work import Stock
from dqlite_py.command import encode_statements
from dqlite_py.config import TlsSettings
from dqlite_py.errors import (
    DatabaseLocked,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    NoLeader,
    NotSupportedError,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    SnapshotConflict,
    TransactionEnded,
)
from dqlite_py.gateway import Freshness, Interrupt, ReadLevel, TransactionLimits
from dqlite_py.model import Address, WriteKey
from dqlite_py.raft.tls import TlsContexts
from dqlite_py.wire.dqlite.frames import Frame, encode_frame
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import (
    Empty,
    Failure,
    Result,
    encode_response,
)
from dqlite_py.wire.dqlite.rows import RowsBatch
from dqlite_py.wire.dqlite.values import ValueType, WireValue, typed
from tests.support.fakestock import CLOSE, DONE, SILENCE, Answer, FakeServer, Raw, servers
from tests.unit.client.cluster import wait_until

TLS = Path(__file__).parents[2] / "support" / "tls"
WAIT_S = 60.0  # ends a broken test
LONG_S = 3600.0  # never over, but when the test moves the clock
LIMITS = TransactionLimits(LONG_S, LONG_S)
LEADER = Freshness(ReadLevel.LEADER)


NOT_LEADER = Failure(10250, "not leader")
BUSY = Failure(5, "database is locked")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with servers(1) as [made]:
        yield made


@pytest.fixture
def gateway(server: FakeServer) -> Iterator[StockGateway]:
    made = StockGateway([server.address])
    yield made
    made.close()


def write(gateway: StockGateway, *sqls: str, timeout_s: float = WAIT_S, once: bool | WriteKey = True) -> Any:
    return gateway.execute_unit(
        "app", encode_statements((sql, ()) for sql in sqls), timeout_s, once=once
    ).statements


def read(gateway: StockGateway, sql: str = "SELECT 1", timeout_s: float = WAIT_S) -> Any:
    return gateway.query("app", sql, (), LEADER, timeout_s)


@asynccontextmanager
async def stock(*given: FakeServer) -> AsyncIterator[Stock]:
    """On the test's own loop, whose clock `pass_time` moves."""
    made = Stock([server.address for server in given], None, degrades=False)
    try:
        yield made
    finally:
        await made.close()


def pass_time(seconds: float) -> None:
    """The running loop's timers of so long are due."""
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]


def body(*sqls: str) -> bytes:
    return encode_statements((sql, ()) for sql in sqls)


async def tasks() -> int:
    """Of calls under way, on a gateway's loop; what has just ended is through its callbacks."""
    for _ in range(10):
        await asyncio.sleep(0)
    return len(asyncio.all_tasks()) - 2  # without this one and the thread's own


async def lent(stock: Stock) -> int:
    return len(stock._pool._lent)


async def seen(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition)


# -- who leads


def test_a_follower_names_the_leader_which_has_to_confirm() -> None:
    with servers(2) as [first, second]:
        first.leader = second.address
        gateway = StockGateway([first.address])
        write(gateway, "INSERT 1")
        assert (first.seen, second.seen) == ([], ["INSERT 1"])
        gateway.close()


async def test_a_leader_that_another_does_not_confirm_is_not_believed() -> None:
    with servers(2) as [first, second]:
        first.leader, second.leader = second.address, Address("")
        with pytest.raises(Unreachable, match="does not say that it leads"):
            await Discovery([first.address], None).connect()


def test_a_refused_write_goes_to_the_new_leader() -> None:
    with servers(2) as [first, second]:
        second.leader = first.address
        gateway = StockGateway([first.address, second.address])
        write(gateway, "INSERT 1")
        first.script["INSERT 2"] = [NOT_LEADER]
        first.leader = second.leader = second.address
        write(gateway, "INSERT 2")
        assert second.seen == ["INSERT 2"]
        gateway.close()


async def test_a_search_that_is_given_up_leaves_no_connection(server: FakeServer) -> None:
    server.script["CLUSTER"] = [SILENCE]  # the leader is found, and asked for the other members
    async with stock(server) as client:
        task = asyncio.create_task(client.query("app", "SELECT 1", (), LEADER, LONG_S))
        await seen(lambda: server.searches > 0)
        pass_time(LONG_S)
        with pytest.raises(NoLeader):
            await task
        server.script["CLUSTER"] = [CLOSE]
        await client.query("app", "SELECT 1", (), LEADER, WAIT_S)


def test_a_connection_serves_again(server: FakeServer, gateway: StockGateway) -> None:
    for _ in range(3):
        write(gateway, "INSERT 1")
        read(gateway)
    assert server.opened == 1


def test_tls_with_the_certificates_of_one_authority() -> None:
    settings = TlsSettings(*(str(TLS / name) for name in ("node.pem", "node.key", "ca.pem")))
    server = FakeServer(TlsContexts(settings).server)
    gateway = StockGateway([server.address], settings)
    write(gateway, "INSERT 1")
    assert server.seen == ["INSERT 1"]
    gateway.close()
    plain = StockGateway([server.address])
    with pytest.raises(NoLeader):
        write(plain, "INSERT 2", timeout_s=0.2)
    plain.close()
    server.close()


# -- outcomes of writes


@pytest.mark.parametrize(
    "answer",
    [
        CLOSE,
        Failure(10506, "leadership lost"),
        Failure(10, "disk I/O error"),
        Failure(4, "abort"),
        Failure(1, "server is shutting down"),
        Failure(13, "database or disk is full"),
        Empty(),
    ],
)
def test_a_write_without_a_clear_answer_is_not_repeated(
    server: FakeServer, gateway: StockGateway, answer: Answer
) -> None:
    server.script["INSERT"] = [answer, DONE]
    with pytest.raises(OutcomeUnknown) as caught:
        write(gateway, "INSERT 1")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert server.seen == ["INSERT 1"]


def test_a_write_under_way_when_the_gateway_is_closed_may_have_happened(
    server: FakeServer, gateway: StockGateway
) -> None:
    server.script["INSERT"] = [SILENCE]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        writing = threads.submit(write, gateway, "INSERT 1")
        wait_until(lambda: "INSERT 1" in server.seen)
        gateway.close()
        with pytest.raises(OutcomeUnknown, match="closed during"):
            writing.result(WAIT_S)
    with pytest.raises(InterfaceError, match="closed"):  # it never began
        write(gateway, "INSERT 2")


async def test_a_write_that_is_not_answered_in_time(server: FakeServer) -> None:
    server.script["INSERT"] = [SILENCE]
    async with stock(server) as client:
        task = asyncio.create_task(client.execute_unit("app", body("INSERT 1"), LONG_S, True))
        await seen(lambda: server.seen == ["INSERT 1"])
        pass_time(LONG_S)
        with pytest.raises(OutcomeUnknown):
            await task
    assert server.seen == ["INSERT 1"]


@pytest.mark.parametrize("answer", [BUSY, NOT_LEADER, Failure(12, "no database opened"), Failure(8202, "x")])
def test_a_refused_write_is_tried_again(server: FakeServer, gateway: StockGateway, answer: Failure) -> None:
    server.script["INSERT"] = [answer, answer, DONE]
    assert write(gateway, "INSERT 1")[0].rowcount == 1
    assert server.seen == ["INSERT 1"] * 3


async def test_a_database_that_stays_locked(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PAUSE_MIN_S", LONG_S)
    server.script["INSERT"] = [BUSY]
    async with stock(server) as client:
        task = asyncio.create_task(client.execute_unit("app", body("INSERT 1"), LONG_S, True))
        await seen(lambda: server.seen == ["INSERT 1"] and not client._pool._lent)  # it pauses
        pass_time(LONG_S)
        with pytest.raises(DatabaseLocked) as caught:
            await task
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert caught.value.retryable


def test_the_own_error_of_a_write(server: FakeServer, gateway: StockGateway) -> None:
    server.script["INSERT"] = [Failure(2067, "UNIQUE constraint failed: t.a")]
    with pytest.raises(IntegrityError, match="UNIQUE") as caught:
        write(gateway, "INSERT 1")
    assert (caught.value.code, caught.value.outcome) == (2067, Outcome.NOT_APPLIED)
    read(gateway)
    assert server.opened == 1


def test_a_unit_that_breaks_before_its_commit_is_done_anew(server: FakeServer, gateway: StockGateway) -> None:
    server.script["INSERT 2"] = [CLOSE, DONE]
    write(gateway, "INSERT 1", "INSERT 2")
    assert server.seen == [*["BEGIN IMMEDIATE", "INSERT 1", "INSERT 2"] * 2, "COMMIT"]


def test_a_unit_whose_commit_is_not_answered(server: FakeServer, gateway: StockGateway) -> None:
    server.script["COMMIT"] = [CLOSE]
    with pytest.raises(OutcomeUnknown):
        write(gateway, "INSERT 1", "INSERT 2")
    assert server.seen[-1] == "COMMIT"


def test_a_failed_statement_of_a_unit_undoes_it(server: FakeServer, gateway: StockGateway) -> None:
    server.script["INSERT 2"] = [Failure(19, "constraint failed")]
    with pytest.raises(IntegrityError) as caught:
        write(gateway, "INSERT 1", "INSERT 2")
    assert caught.value.details["statement"] == 1
    assert server.seen[-1] == "ROLLBACK"


def test_keys_are_refused(gateway: StockGateway) -> None:
    key = WriteKey(b"x" * 16, 1)
    with pytest.raises(NotSupportedError):
        gateway.new_key("app")
    with pytest.raises(NotSupportedError):
        write(gateway, "INSERT 1", once=key)
    with pytest.raises(OutcomeUnknown):
        gateway.resolve("app", key, 1)


# -- reads


@pytest.mark.parametrize("answer", [CLOSE, BUSY, NOT_LEADER, Failure(10506, "leadership lost")])
def test_a_read_is_asked_again(server: FakeServer, gateway: StockGateway, answer: Answer) -> None:
    server.script["SELECT"] = [answer, RowsBatch(("x",), ((typed(1),),), True)]
    assert read(gateway).rows == [(1,)]


def test_a_result_in_pieces(server: FakeServer, gateway: StockGateway) -> None:
    rows = [RowsBatch(("x",), ((typed(number),),), number == 2) for number in range(3)]
    server.answers = lambda request: (  # type: ignore[method-assign]
        iter(rows) if request.type is RequestType.QUERY_SQL else FakeServer.answers(server, request)
    )
    found = read(gateway)
    assert found.rows == [(0,)]
    assert found.more is not None
    assert found.more.fetch() == [(1,), (2,)]
    assert found.more.fetch() == []
    read(gateway)
    assert server.opened == 1


def test_an_interrupt_between_two_pieces_ends_the_result(server: FakeServer, gateway: StockGateway) -> None:
    server.script["SELECT"] = [RowsBatch(("x",), ((typed(1),),), False)]
    interrupt = Interrupt()
    interrupt.request()  # of before: does not count
    found = gateway.query("app", "SELECT 1", (), LEADER, 5, interrupt)
    assert found.more is not None
    interrupt.request()
    with pytest.raises(OperationalError, match="interrupted") as caught:
        found.more.fetch()
    assert caught.value.code == 9
    assert found.more.fetch() == []


def test_nonsense_is_no_answer(server: FakeServer, gateway: StockGateway) -> None:
    server.script["SELECT"] = [Result(1, 1), RowsBatch(("x",), (), True)]
    assert read(gateway).rows == []


@pytest.mark.parametrize(
    "freshness", [Freshness(), Freshness(ReadLevel.SESSION, 5), Freshness(ReadLevel.STALE, 0, 1.0)]
)
def test_levels_that_a_server_has_not(gateway: StockGateway, freshness: Freshness) -> None:
    with pytest.raises(NotSupportedError):
        gateway.query("app", "SELECT 1", (), freshness, 1)


# -- transactions


def test_a_transaction_whose_server_goes_has_not_happened(server: FakeServer, gateway: StockGateway) -> None:
    transaction = gateway.begin("app", 1, LIMITS)
    server.script["INSERT"] = [CLOSE]
    with pytest.raises(TransactionEnded) as caught:
        transaction.run(encode_statements([("INSERT 1", ())]), 5)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert not transaction.is_open
    with pytest.raises(TransactionEnded):
        transaction.commit(5)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (CLOSE, OutcomeUnknown),
        (Failure(10506, "lost"), OutcomeUnknown),
        (Failure(13, "database or disk is full"), OutcomeUnknown),  # of the log: others may have the entry
        (Failure(1, "whatever else raft says"), OutcomeUnknown),
        (Empty(), OutcomeUnknown),
        (NOT_LEADER, TransactionEnded),
        (Failure(1, "cannot commit - no transaction is active"), OperationalError),
    ],
)
def test_what_a_commit_without_success_means(
    server: FakeServer, gateway: StockGateway, answer: Answer, error: type[Error]
) -> None:
    transaction = gateway.begin("app", 1, LIMITS)
    server.script["COMMIT"] = [answer]
    with pytest.raises(error) as caught:
        transaction.commit(WAIT_S)
    assert (caught.value.outcome is Outcome.UNKNOWN) == (error is OutcomeUnknown)
    assert not transaction.is_open
    server.script["COMMIT"] = [answer, DONE]
    if error is not TransactionEnded:  # which is tried again
        with pytest.raises(error):
            write(gateway, "INSERT 1", "INSERT 2")


async def test_a_limit_does_not_break_a_commit_in_work(server: FakeServer) -> None:
    server.script["COMMIT"] = [Failure(5, "checkpoint in progress")]
    async with stock(server) as client:
        transaction = await client.begin("app", WAIT_S, LIMITS, None)
        task = asyncio.create_task(transaction.commit(2 * LONG_S))
        await seen(lambda: "COMMIT" in server.seen)
        pass_time(LONG_S)
        count = len(server.seen)
        await seen(lambda: len(server.seen) > count + 1)
        server.script["COMMIT"] = [DONE]
        await task


def test_a_transaction_over_its_limit_is_rolled_back(server: FakeServer, gateway: StockGateway) -> None:
    transaction = gateway.begin("app", 1, TransactionLimits(LONG_S, 0.1))
    server.script["INSERT"] = [SILENCE]
    with pytest.raises(TransactionEnded, match="hold_limit"):  # before the statement, or in it
        transaction.run(body("INSERT 1"), LONG_S)


def test_a_commit_that_finds_a_checkpoint_waits(server: FakeServer, gateway: StockGateway) -> None:
    transaction = gateway.begin("app", 1, LIMITS)
    server.script["COMMIT"] = [Failure(5, "checkpoint in progress"), DONE]
    transaction.commit(5)
    assert server.seen == ["BEGIN IMMEDIATE", "COMMIT", "COMMIT"]


def test_a_transaction_begins_when_the_database_is_free(server: FakeServer, gateway: StockGateway) -> None:
    server.script["BEGIN IMMEDIATE"] = [BUSY, BUSY, DONE]
    gateway.begin("app", 5, LIMITS).rollback()
    server.script["BEGIN IMMEDIATE"] = [BUSY]
    with pytest.raises(DatabaseLocked):
        gateway.begin("app", 0, LIMITS)


def test_a_state_that_was_overwritten_cannot_be_written_on(server: FakeServer, gateway: StockGateway) -> None:
    state = gateway.begin_read("app", LEADER, 5, LIMITS)
    server.script["SAVEPOINT"] = [Failure(517, "database is locked")]
    with pytest.raises(SnapshotConflict):
        gateway.begin("app", 5, LIMITS, base_index=state.log_index)
    state.close()


def test_a_result_given_up_does_not_show_in_the_next_one(server: FakeServer, gateway: StockGateway) -> None:
    state = gateway.begin_read("app", LEADER, 5, LIMITS)
    pieces = [RowsBatch(("x",), ((typed(f"old {number}"),),), number == 2) for number in range(3)]
    server.script["SELECT old"] = [Raw(b"".join(encode_frame(encode_response(piece)) for piece in pieces))]
    server.script["SELECT new"] = [RowsBatch(("x",), ((typed("new"),),), True)]
    found = state.query("SELECT old", (), 5)
    assert found.more is not None
    found.more.close()
    assert state.query("SELECT new", (), 5).rows == [("new",)]
    assert server.opened == 1
    state.close()


def test_a_forked_child_holds_no_transaction_of_its_parent(server: FakeServer, gateway: StockGateway) -> None:
    transaction = gateway.begin("app", 5, LIMITS)
    read(gateway)
    numbers = gateway._shared.background.resource.descriptors()
    assert len(numbers) == 2
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, repr([os.readlink(f"/proc/self/fd/{number}") for number in numbers]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as found:
        assert found.read() == repr(["/dev/null"] * len(numbers))
    os.waitpid(child, 0)
    transaction.commit(5)


@pytest.mark.parametrize("kind", ["transaction", "state", "result"])
async def test_what_opens_when_its_caller_has_just_left_is_closed(server: FakeServer, kind: str) -> None:
    """The caller's loop stands still until it is there, and then the caller is cancelled."""
    server.script["SELECT 1"] = [RowsBatch(("x",), ((typed(1),),), False)]
    gateway = AsyncStockGateway([server.address])
    work: dict[str, Callable[[], Any]] = {
        "transaction": lambda: gateway.begin("app", WAIT_S, LIMITS),
        "state": lambda: gateway.begin_read("app", LEADER, WAIT_S, LIMITS),
        "result": lambda: gateway.query("app", "SELECT 1", (), LEADER, WAIT_S),
    }
    background = gateway._shared.background
    task = asyncio.create_task(work[kind]())
    await asyncio.sleep(0)
    wait_until(lambda: background.run(tasks()) == 0)
    assert background.run(lent(background.resource)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await seen(lambda: background.run(lent(background.resource)) == 0)
    gateway.close()


async def test_coroutines(server: FakeServer) -> None:
    gateway = AsyncStockGateway([server.address])
    server.script["SELECT"] = [RowsBatch(("x",), ((typed(1),),), True)]
    assert (await gateway.query("app", "SELECT 1", (), LEADER, 5)).rows == [(1,)]
    transaction = await gateway.begin("app", 5, LIMITS)
    await transaction.run(encode_statements([("INSERT 1", ())]), 5)
    await transaction.commit(5)
    assert server.seen == ["SELECT 1", "BEGIN IMMEDIATE", "INSERT 1", "COMMIT"]
    gateway.close()


async def test_idle_connections_of_a_server_that_fell_silent_are_not_used_again(server: FakeServer) -> None:
    """Each would cost a time-out, and a write its outcome."""
    async with stock(server) as client:
        begun = [await client.begin("app", WAIT_S, LIMITS, None) for _ in range(4)]
        for transaction in begun:
            await transaction.rollback()
        assert server.opened == 4
        server.script["INSERT"] = [SILENCE, DONE]
        task = asyncio.create_task(client.execute_unit("app", body("INSERT 1"), LONG_S, True))
        await seen(lambda: server.seen[-1] == "INSERT 1")
        pass_time(LONG_S)
        with pytest.raises(OutcomeUnknown):
            await task
        await client.execute_unit("app", body("INSERT 2"), WAIT_S, True)
        assert server.opened == 5


# -- texts and codes


def test_what_statements_are() -> None:
    assert kind_of("SELECT 1").has_rows
    assert kind_of("PRAGMA table_info(t)").has_rows
    assert kind_of("INSERT INTO t VALUES (1) RETURNING a") == (True, True, True)
    assert kind_of("UPDATE t SET a = 'RETURNING'") == (False, True, False)
    assert not kind_of("PRAGMA user_version = 3").has_rows
    assert asks("PRAGMA main.table_xinfo('t')")
    assert not asks("PRAGMA main.user_version = 3")
    for sql in ("PRAGMA foreign_keys = 1", "PRAGMA busy_timeout", "PRAGMA journal_mode(DELETE)"):
        with pytest.raises(NotSupportedError):
            asks(sql)


def test_named_values_are_sent_in_their_order() -> None:
    body = encode_statements([("SELECT :b, :a, :b", {"a": 1, "b": 2}), ("SELECT ?", (3,))])
    assert [[value.value for value in one.params] for one in decode_body(body)] == [[2, 1], [3]]


def test_text_that_would_be_cut_off_is_refused(server: FakeServer, gateway: StockGateway) -> None:
    with pytest.raises(DataError, match="NUL"):
        gateway.execute_unit("app", encode_statements([("INSERT ?", ("a\0b",))]), 5)
    assert not server.seen


def test_values_are_those_that_sqlite_stores() -> None:
    row = (
        WireValue(ValueType.ISO8601, ""),
        WireValue(ValueType.BOOLEAN, 7),
        WireValue(ValueType.UNIXTIME, 5),
        typed(""),
    )
    assert plain_rows([row]) == [(None, 7, 5, "")]


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (Failure(10250, "not leader"), Refused),
        (Failure(12, "no statement with the given id"), Error),
        (Failure(5 | 3 << 8, "timeout"), Refused),
        (Failure(517, "snapshot"), OperationalError),
        (Failure(10, "leader exec failed"), Doubtful),
        (Failure(1005, "not an error"), NotSupportedError),
        (Failure(2**63, "beyond all codes"), Error),
        (Failure(0, "empty statement"), Error),
    ],
)
def test_what_codes_mean(failure: Failure, error: type[Exception]) -> None:
    with pytest.raises(error):
        checked(failure)


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_of_a_server_end_in_a_documented_error(
    server: FakeServer, gateway: StockGateway, seed: int
) -> None:
    chance = random.Random(seed)
    body = chance.randbytes(8 * chance.randrange(1, 20))
    server.script["SELECT"] = [Raw(encode_frame(Frame(chance.randrange(12), 0, body))), CLOSE]
    with contextlib.suppress(Error):
        read(gateway, timeout_s=0.05)
    server.script["SELECT"] = [RowsBatch(("x",), ((typed(1),),), True)]
    assert read(gateway).rows == [(1,)]
