"""Reads of a program: which node is asked, results in pieces, frozen states, interrupts, dropped objects."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from dqlite_py.client.gateway import AsyncRemoteGateway
from dqlite_py.client.shared import shared_link
from dqlite_py.errors import (
    Error,
    MalformedMessage,
    NoLeader,
    OperationalError,
    Outcome,
    OutcomeUnknown,
    RequestTooLarge,
    TransactionEnded,
)
from dqlite_py.gateway import LINEARIZABLE, Freshness, Interrupt, ReadLevel, TransactionLimits
from tests.support.fakepeer import FakePeer
from tests.unit.client.cluster import Script, asked, cutting, gateway, nodes, rows, settle, wait_until

NOW_US = 1_700_000_000_000_000

WAIT_S = 20.0
LIMITS = TransactionLimits(10.0, 60.0)
STALE = Freshness(ReadLevel.STALE, 0, 1.5)


class Pieces:
    """A result of `count` rows, one in each piece, and what closes it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.methods = {
            "sql.query": self.query,
            "sql.fetch": self.fetch,
            "sql.close": self.close,
            "sql.begin_read": self.begin_read,
        }
        self.sent = 0
        self.closed: list[bytes] = []

    async def query(self, _body: Any) -> Any:
        self.sent = 1
        return rows([1], has_more=self.count > 1)

    async def fetch(self, _body: Any) -> Any:
        self.sent += 1
        return [[[self.sent]], self.sent == self.count]

    async def close(self, body: Any) -> Any:
        self.closed.append(body["id"])

    async def begin_read(self, _body: Any) -> Any:
        return 33


def test_a_read_and_what_it_asks_for() -> None:
    with nodes({"sql.query": Script(rows([1], [None]))}) as peers:
        found = gateway(*peers).query("app", "SELECT a", {"x": 5}, STALE, WAIT_S)
        assert (found.columns, found.decltypes, found.rows) == (("a",), (None,), [(1,), (None,)])
        assert (found.log_index, found.more) == (3, None)
        [body] = asked(peers[0], "sql.query")
        assert {**body, "id": b"", "timeout_s": 0} == {
            "id": b"",
            "timeout_s": 0,
            "database": "app",
            "sql": "SELECT a",
            "params": {"x": 5},
            "level": "stale",
            "log_index": 0,
            "max_staleness_s": 1.5,
        }


@pytest.mark.parametrize(
    ("freshness", "where"),
    [(LINEARIZABLE, 1), (Freshness(ReadLevel.LEADER), 1), (Freshness(ReadLevel.SESSION, 5), 0), (STALE, 0)],
)
def test_what_any_node_can_answer_is_asked_of_the_first(freshness: Freshness, where: int) -> None:
    answering = {"sql.query": Script(rows())}
    with nodes(answering, answering, leader=1) as peers:
        gateway(*peers).query("app", "SELECT a", (), freshness, WAIT_S)
        assert [len(asked(peer, "sql.query")) for peer in peers] == [where == 0, where == 1]


def test_a_lost_read_is_asked_of_another_node() -> None:
    with nodes({"sql.query": cutting(lambda: peers[0])}, {"sql.query": Script(rows([5]))}, leader=1) as peers:
        assert gateway(*peers).query("app", "SELECT a", (), STALE, WAIT_S).rows == [(5,)]
        assert len(asked(peers[0], "sql.query")) == 1


@pytest.mark.parametrize(
    "failure",
    [OperationalError("no such table: t", code=1), RequestTooLarge("x"), OutcomeUnknown("it broke")],
)
def test_errors_of_reads_are_raised_at_once(failure: Error) -> None:
    """And none of them says that anything was written."""
    kind = OperationalError if isinstance(failure, OutcomeUnknown) else type(failure)
    with nodes({"sql.query": Script(failure)}) as peers:
        with pytest.raises(kind, match=failure.message) as caught:
            gateway(*peers).query("app", "SELECT a", (), LINEARIZABLE, WAIT_S)
        assert caught.value.outcome is Outcome.NOT_APPLIED
        assert len(asked(peers[0], "sql.query")) == 1


def test_a_read_in_vain_is_no_unknown_outcome() -> None:
    with nodes({"sql.query": cutting(lambda: peers[0])}) as peers, pytest.raises(NoLeader):
        gateway(*peers).query("app", "SELECT a", (), LINEARIZABLE, 0.3)


def test_pieces_of_a_result() -> None:
    pieces = Pieces(5)
    with nodes(pieces.methods) as peers:
        more = gateway(*peers).query("app", "SELECT a", (), LINEARIZABLE, WAIT_S).more
        assert more is not None
        assert [more.fetch() for _ in range(6)] == [[(2,)], [(3,)], [(4,)], [(5,)], [], []]
        more.close()
        assert len({body["id"] for _, body in peers[0].asked}) == 1
        assert pieces.sent == 5
        assert pieces.closed == []


def test_a_result_is_not_read_far_ahead() -> None:
    pieces = Pieces(1000)
    with nodes(pieces.methods) as peers:
        more = gateway(*peers).query("app", "SELECT a", (), LINEARIZABLE, WAIT_S).more
        assert more is not None
        for _ in range(10):
            more.fetch()
        wait_until(lambda: pieces.sent == 12)
        more.close()
        wait_until(lambda: len(pieces.closed) == 1)
        assert pieces.sent == 12
        assert more.fetch() == []


@pytest.mark.parametrize("answer", [None, {}, [[1], False], [[], 1], [[]]])
def test_a_piece_that_makes_no_sense_ends_the_result(answer: Any) -> None:
    pieces = Pieces(5)
    with nodes({**pieces.methods, "sql.fetch": Script(answer)}) as peers:
        more = gateway(*peers).query("app", "SELECT a", (), LINEARIZABLE, WAIT_S).more
        assert more is not None
        with pytest.raises(Error):
            more.fetch()
        assert more.fetch() == []
        wait_until(lambda: len(pieces.closed) == 1)


def test_a_lost_rest_says_so() -> None:
    pieces = Pieces(5)
    with nodes({**pieces.methods, "sql.fetch": cutting(lambda: peers[0])}) as peers:
        more = gateway(*peers).query("app", "SELECT a", (), LINEARIZABLE, WAIT_S).more
        assert more is not None
        with pytest.raises(OperationalError, match="lost with its node"):
            more.fetch()


def test_a_dropped_result_is_closed() -> None:
    pieces = Pieces(5)
    with nodes(pieces.methods) as peers:
        remote = gateway(*peers)
        remote.query("app", "SELECT a", (), LINEARIZABLE, WAIT_S)
        gc.collect()
        wait_until(lambda: len(pieces.closed) == 1)


def test_a_frozen_state() -> None:
    pieces = Pieces(2)
    with nodes(pieces.methods) as peers:
        state = gateway(*peers).begin_read("app", STALE, WAIT_S, LIMITS)
        assert state.log_index == 33
        found = state.query("SELECT a", (), WAIT_S)
        assert found.more is not None
        assert [*found.rows, *found.more.fetch()] == [(1,), (2,)]
        state.close()
        state.close()
        with pytest.raises(TransactionEnded):
            state.query("SELECT a", (), WAIT_S)
        [begin], [query] = asked(peers[0], "sql.begin_read"), asked(peers[0], "sql.query")
        assert (begin["idle_s"], begin["hold_s"], begin["level"]) == (10.0, 60.0, "stale")
        assert (query["transaction"], "database" in query) == (begin["id"], False)
        wait_until(lambda: pieces.closed == [begin["id"]])


def test_a_frozen_state_is_lost_with_its_node() -> None:
    pieces = Pieces(2)
    with nodes({**pieces.methods, "sql.query": cutting(lambda: peers[0])}) as peers:
        state = gateway(*peers).begin_read("app", STALE, WAIT_S, LIMITS)
        with pytest.raises(TransactionEnded):
            state.query("SELECT a", (), WAIT_S)


# -- interrupts -----------------------------------------------------------------------------------------------


class Endless:
    """A statement that runs until it is interrupted or closed."""

    def __init__(self) -> None:
        self.methods = {"sql.query": self.query, "sql.interrupt": self.end, "sql.close": self.end}
        self.started = threading.Event()
        self.ended: list[bytes] = []
        self._over: asyncio.Event | None = None

    async def query(self, _body: Any) -> Any:
        self._over = asyncio.Event()
        self.started.set()
        await self._over.wait()
        raise OperationalError("interrupted", code=9)

    async def end(self, body: Any) -> Any:
        self.ended.append(body["id"])
        assert self._over is not None
        self._over.set()


def test_interrupt_ends_the_statement_at_its_node() -> None:
    endless, interrupt = Endless(), Interrupt()
    with nodes(endless.methods) as peers:

        def request() -> None:
            assert endless.started.wait(WAIT_S)
            interrupt.request()

        thread = threading.Thread(target=request)
        thread.start()
        with pytest.raises(OperationalError, match="interrupted"):
            gateway(*peers).query("app", "SELECT a", (), LINEARIZABLE, WAIT_S, interrupt)
        thread.join()
        assert endless.ended == [body["id"] for body in asked(peers[0], "sql.query")]
        interrupt.request()  # nothing runs: nothing happens


async def test_a_cancelled_read_is_ended_at_its_node() -> None:
    endless = Endless()
    with nodes(endless.methods) as peers:
        remote = async_gateway(*peers)
        task = asyncio.create_task(remote.query("app", "SELECT a", (), LINEARIZABLE, WAIT_S))
        await asyncio.to_thread(endless.started.wait, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: len(endless.ended) == 1)


@pytest.mark.parametrize("kind", ["result", "state"])
async def test_what_opens_when_its_caller_has_just_left_is_closed(kind: str) -> None:
    pieces = Pieces(5)
    with nodes(pieces.methods) as peers:
        shared, remote = shared_link([peers[0].address], None), async_gateway(*peers)
        task = asyncio.create_task(
            remote.query("app", "SELECT a", (), LINEARIZABLE, WAIT_S)
            if kind == "result"
            else remote.begin_read("app", STALE, WAIT_S, LIMITS)  # type: ignore[arg-type]
        )
        await asyncio.sleep(0)  # it is on its way, and this loop stands still until it is there
        connections = shared.background.resource.caller.connections

        def kept() -> int:
            connection = connections.open_to(peers[0].address)
            return 0 if connection is None else connection.keepers

        wait_until(lambda: kept() == 1)
        settle(shared)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await asyncio.to_thread(wait_until, lambda: len(pieces.closed) == 1)
        await asyncio.to_thread(wait_until, lambda: kept() == 0)


def test_a_result_that_makes_no_sense_is_closed() -> None:
    pieces = Pieces(5)
    with nodes({**pieces.methods, "sql.query": Script([["a"], [None], [[1]], 3, "more"])}) as peers:
        remote = gateway(*peers)
        with pytest.raises(MalformedMessage):
            remote.query("app", "SELECT a", (), LINEARIZABLE, WAIT_S)
        state = remote.begin_read("app", STALE, WAIT_S, LIMITS)
        with pytest.raises(MalformedMessage):
            state.query("SELECT a", (), WAIT_S)
        numbers = [body["id"] for body in asked(peers[0], "sql.query")]
        wait_until(lambda: pieces.closed == numbers)


async def test_async_pieces() -> None:
    pieces = Pieces(3)
    with nodes(pieces.methods) as peers:
        remote = async_gateway(*peers)
        found = await remote.query("app", "SELECT a", (), LINEARIZABLE, WAIT_S)
        more: Any = found.more
        assert [found.rows, await more.fetch(), await more.fetch(), await more.fetch()] == [
            [(1,)],
            [(2,)],
            [(3,)],
            [],
        ]
        state = await remote.begin_read("app", STALE, WAIT_S, LIMITS)
        assert (await state.query("SELECT a", (), WAIT_S)).rows == [(1,)]
        await state.close()


def async_gateway(*peers: FakePeer) -> AsyncRemoteGateway:
    return AsyncRemoteGateway(shared_link([peer.address for peer in peers], None))


# -- the rest -------------------------------------------------------------------------------------------------


def test_open_database_and_is_read() -> None:
    with nodes({"sql.open": Script(NoLeader("x"), None), "sql.is_read": Script(True, 7)}) as peers:
        remote = gateway(*peers)
        remote.open_database("app", WAIT_S)
        assert remote.is_read("PRAGMA x", "app") is True
        with pytest.raises(Error, match="true nor false"):
            remote.is_read("PRAGMA x", "app")
        assert asked(peers[0], "sql.open")[0]["database"] == "app"


def test_keys_are_newer_than_the_database_that_was_opened() -> None:
    with nodes({"sql.open": Script(NOW_US, NOW_US - 5, "x")}) as peers:
        remote = gateway(*peers)
        for _ in range(2):
            remote.open_database("app", WAIT_S)
            assert remote.new_key("app").sequence == NOW_US + 1
        with pytest.raises(MalformedMessage, match="no log time"):
            remote.open_database("app", WAIT_S)
