"""A leader's transactions with the engine, the log and the loop's time in the test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import msgpack

from dqlite_py.client_sessions import ClientSessions
from dqlite_py.errors import Error, IntegrityError, TransactionEnded
from dqlite_py.gateway import TransactionLimits
from dqlite_py.model import LogIndex, Term
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.proposals import DatabaseProposals
from dqlite_py.node.transaction import Transaction
from dqlite_py.node.transactions import Beginning, Transactions
from dqlite_py.node.writes import Writes
from dqlite_py.units import encode_statements
from tests.faults.ours import CoreWorld

NOW_US = 1_800_000_000_000_000
LIMITS = TransactionLimits(60.0, 60.0)
READ = encode_statements([("SELECT 1", [])])
WRITE = encode_statements([("INSERT INTO t VALUES (1)", [])])


class FakeLive:
    """Follows storage.live.LiveTransaction: every group writes but READ."""

    def __init__(self, now_us: int, seed: bytes) -> None:
        self.now_us, self.seed = now_us, seed
        self.groups: list[bytes] = []
        self.is_open = True
        self.why = ""
        self.interrupted = 0
        self.has_open_foreign_keys = False
        self.next_ends = False
        self.during_run: Callable[[], None] = lambda: None

    def run(
        self, body: bytes, timeout_s: float | None = None, is_given_up: Callable[[], bool] = lambda: False
    ) -> Any:
        self.check()
        self.during_run()
        self.check()
        if body != READ:
            self.groups.append(body)
        if self.next_ends:
            self.is_open = False
        packed = msgpack.packb([0, [[1, 1, None, None]]])
        return SimpleNamespace(results=packed, is_open=self.is_open, decltypes=None)

    def finish(self) -> tuple[list[bytes], bytes]:
        self.check()
        if self.has_open_foreign_keys:
            raise IntegrityError("FOREIGN KEY constraint failed", code=787)
        self.is_open = False
        return self.groups, bytes(8)

    def rollback(self) -> None:
        self.is_open = False

    def interrupt(self) -> None:
        self.interrupted += 1

    def doom(self, why: str) -> None:
        self.why = why
        self.interrupt()

    def check(self) -> None:
        if self.why or not self.is_open:
            raise TransactionEnded(self.why or "over")


class FakeEngine:
    def __init__(self) -> None:
        self.applied_index = 7
        self.lives: list[FakeLive] = []

    def live_begin(self, now_us: int, seed: bytes) -> FakeLive:
        assert not any(live.is_open for live in self.lives)
        self.lives.append(FakeLive(now_us, seed))
        return self.lives[-1]


class TransactionBench:
    """`confirm` answers the leadership checks; `proposed` is the log's end."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.loop = loop
        self.world = CoreWorld("A")
        self.world.elect("A")
        core = self.world["A"].core
        self.view = ClusterView(loop, core)
        self.view.ready_term = Term(core.term)
        self.engine = FakeEngine()
        self.asked: list[Callable[[LogIndex | None], None]] = []
        self.proposed: list[tuple[bytes, Callable[[Any, Error | None], None]]] = []
        self.behind: asyncio.Future[None] | None = None
        self.heard: list[tuple[Any, Error | None]] = []
        self.executor = ThreadPoolExecutor(2)
        self.workers: dict[str, Any] = {"app": SimpleNamespace(engine=self.engine)}
        applier: Any = SimpleNamespace(workers=self.workers, when_applied=lambda _name, _index: self.behind)
        reads: Any = SimpleNamespace(confirm_here=self.asked.append)
        clock: Any = SimpleNamespace(now_us=lambda: NOW_US)
        self.writes = Writes(
            loop=loop,
            view=self.view,
            propose=lambda payload, callback: self.proposed.append((payload, callback)),
            pump=lambda: None,
            call=self._call,
            make_proposals=self._make,
            now_us=lambda: NOW_US,
            databases=dict,
            sessions=ClientSessions(lambda: NOW_US),
        )
        self.transactions = Transactions(
            loop=loop,
            view=self.view,
            writes=self.writes,
            reads=reads,
            applier=lambda: applier,
            log_clock=clock,
            executor=self.executor,
            post=loop.call_soon_threadsafe,
        )

    def _make(self, database: str, propose: Any) -> DatabaseProposals:
        return DatabaseProposals(
            database,
            propose=propose,
            now_us=lambda: NOW_US,
            state_hash=lambda _: None,
            call_soon=self.loop.call_soon,
            call_later=self.loop.call_later,
            pump=lambda: None,
        )

    async def _call(self, *_: Any) -> Any:
        raise AssertionError("nobody is called")

    def hear(self, value: Any, error: Error | None) -> None:
        self.heard.append((value, error))

    def ask(self, **options: Any) -> Beginning:
        wait_s = options.pop("wait_s", 5.0)
        limits = options.pop("limits", LIMITS)
        begin = Beginning("app", wait_s, limits, self.hear, **options)
        self.transactions.begin(begin)
        return begin

    def confirm(self, index: int | None = 7) -> None:
        asked, self.asked[:] = list(self.asked), []
        for answer in asked:
            answer(None if index is None else LogIndex(index))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def open(self, **options: Any) -> Transaction:
        """A transaction that has begun."""
        begin = self.ask(**options)
        self.confirm()
        await self.settle()
        found = begin.transaction
        assert found is not None
        self.heard.pop()
        return found

    def unit(self, position: int) -> Any:
        (unit,) = msgpack.unpackb(self.proposed[position][0])[6]
        return unit

    async def is_free(self) -> bool:
        """Whether the next one gets the database."""
        begin = self.ask()
        self.confirm()
        await self.settle()
        found = begin.transaction
        if found is not None:
            self.transactions.close(found)
        else:
            self.transactions.leave(begin)
        self.heard.pop()
        await self.settle()
        return found is not None

    def close(self) -> None:
        self.executor.shutdown()
