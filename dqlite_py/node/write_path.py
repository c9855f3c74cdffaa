"""Wires what writes and transactions pass on their way to the log, from the gateway to the queues of proposals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from dqlite_py.client_sessions import ClientSessions
from dqlite_py.command import StateHash
from dqlite_py.node.applier import Applier
from dqlite_py.node.async_gateway import AsyncLocalGateway
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.local_gateway import LocalGateway
from dqlite_py.node.log_clock import LogClock
from dqlite_py.node.proposals import DatabaseProposals
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.tickets import Inbox
from dqlite_py.node.transaction_calls import TransactionCalls
from dqlite_py.node.transactions import Transactions
from dqlite_py.node.writes import Call, Writes
from dqlite_py.ports import Clock
from dqlite_py.raft.host import RaftHost

TRANSACTION_THREADS: Final = 8


class WritePath:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        view: ClusterView,
        host: RaftHost,
        reads: ReadBarriers,
        call: Call,
        spawn: Callable[[Any], Any],
        applier: Callable[[], Applier],
        clock: Clock,
    ) -> None:
        self._host = host
        self._applier = applier
        self._log_clock = LogClock(clock, lambda: applier().last_now_us)
        self._loop = loop
        self._executor = ThreadPoolExecutor(TRANSACTION_THREADS, thread_name_prefix="dqlite-transaction")
        self.inbox = Inbox(loop)
        self.writes = Writes(
            loop=loop,
            view=view,
            propose=host.propose,
            pump=host.pump,
            call=call,
            make_proposals=self._make_proposals,
            now_us=self._log_clock.now_us,
            databases=lambda: applier().workers,
            sessions=ClientSessions(lambda: applier().log_time_us),
        )
        self.transactions = Transactions(
            loop=loop,
            view=view,
            writes=self.writes,
            reads=reads,
            applier=applier,
            log_clock=self._log_clock,
            executor=self._executor,
            post=self._post,
        )
        self.gateway = LocalGateway(
            inbox=self.inbox,
            writes=self.writes,
            reads=reads,
            view=view,
            applier=applier,
            transactions=self.transactions,
            calls=TransactionCalls(
                loop=loop,
                view=view,
                writes=self.writes,
                transactions=self.transactions,
                call=call,
                spawn=spawn,
            ),
            spawn=spawn,
        )
        self.async_gateway = AsyncLocalGateway(self.gateway)

    def _make_proposals(self, database: str, propose: Any) -> DatabaseProposals:
        return DatabaseProposals(
            database,
            propose=propose,
            now_us=self._log_clock.now_us,
            state_hash=self._state_hash,
            call_soon=self.inbox.soon,
            call_later=self._loop.call_later,
            pump=self._host.pump,
        )

    def _state_hash(self, database: str) -> StateHash | None:
        worker = self._applier().workers.get(database)
        return None if worker is None else worker.last_hash

    def _post(self, function: Callable[..., None], *args: Any) -> None:
        """From any thread; a loop that is closed has ended all transactions."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return

    def lost_leadership(self) -> None:
        self.writes.lost_leadership()
        self.transactions.lost_leadership()

    async def stop(self) -> None:
        """Everybody who waits hears what is true. The inbox is closed."""
        await self.transactions.end_all("the node is stopping")
        await self.writes.stop()

    def close(self) -> None:
        self._executor.shutdown(wait=False)
