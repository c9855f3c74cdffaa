"""The interactive transactions of a leader: from the lock of their database to the outcome of their unit. Loop thread.

Begin: a place in the database's queue and a leadership check, asked for together. With both, every entry up to the
check's read index applied, the transaction has the database to itself, in a state that holds every write acknowledged
before it was asked for. Commit: its unit becomes an entry; an uncertain outcome is asked for by a fence, never proposed
again (docs/decisions/0012). Here it ends, too, when the caller goes, its time is over or leadership is lost.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from random import Random
from typing import Any, Final

from dqlite_py.errors import (
    Error,
    InterfaceError,
    NotLeader,
    OperationalError,
    Outcome,
    Overwritten,
    SnapshotConflict,
    TransactionEnded,
)
from dqlite_py.gateway import TransactionLimits
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.log_clock import LogClock
from dqlite_py.node.pending_write import fence
from dqlite_py.node.proposals import DatabaseProposals, UnitCallback, WriteLock
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.transaction import ROLLED_BACK, Transaction
from dqlite_py.node.writes import Writes
from dqlite_py.resultcodes import NEVER_APPLIED, SESSION_EXPIRED
from dqlite_py.sqlite_codes import BUSY_SNAPSHOT

ENDED_KEPT: Final = 1024  # why transactions of other processes ended
NOTHING_WRITTEN: Final = (0, (0, ()))
"""The outcome of a transaction without an entry."""
BeginCallback = Callable[[Any, Error | None], None]  # hears the Transaction, or why there is none


class Beginning:
    """A transaction that is asked for: the lock and the leadership check come in any order."""

    __slots__ = (
        "asked",
        "base_index",
        "callback",
        "database",
        "found",
        "id",
        "is_left",
        "is_over",
        "limits",
        "lock",
        "owner",
        "queue",
        "read_index",
        "transaction",
        "wait_s",
    )

    def __init__(
        self,
        database: str,
        wait_s: float,
        limits: TransactionLimits,
        callback: BeginCallback,
        *,
        base_index: int | None = None,
        owner: object = None,
        transaction_id: bytes = b"",
    ) -> None:
        self.database = database
        self.wait_s = wait_s
        self.limits = limits
        self.callback = callback
        self.base_index = base_index
        self.owner = owner
        self.id = transaction_id
        self.queue: DatabaseProposals | None = None
        self.lock: WriteLock | None = None
        self.read_index: LogIndex | None = None
        self.transaction: Transaction | None = None
        self.asked: tuple[NodeId, bytes] | None = None  # another node, for a transaction of this id
        self.found: Any = None  # there
        self.is_over = False
        self.is_left = False


class Transactions:
    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        view: ClusterView,
        writes: Writes,
        reads: ReadBarriers,
        applier: Callable[[], Applier],
        log_clock: LogClock,
        executor: Executor,
        post: Callable[..., None],
    ) -> None:
        self.loop = loop
        self._view = view
        self._writes = writes
        self._reads = reads
        self._applier = applier
        self._log_clock = log_clock
        self.executor = executor  # statements of callers in other processes and of tasks
        self._post = post
        self._random = Random()
        self._beginning: dict[Beginning, None] = {}
        self._open: dict[Transaction, None] = {}
        self.running = self._open.keys
        self._undoing: dict[asyncio.Future[None], str] = {}
        self._by_id: dict[bytes, Transaction] = {}
        self._ended: OrderedDict[bytes, Error] = OrderedDict()

    # -- begin ----------------------------------------------------------------------------------------

    def begin(self, begin: Beginning) -> None:
        """`begin.callback` hears exactly once: the open Transaction, or an error; NotLeader where another one leads."""
        try:
            if begin.is_left:
                raise OperationalError("the caller did not wait until the transaction began")
            begin.queue = self._writes.queue_here(begin.database)
            begin.lock = begin.queue.lock(partial(self._granted, begin), begin.wait_s)
        except Error as error:
            begin.is_over = True
            begin.callback(None, error)
            return
        self._beginning[begin] = None
        self._reads.confirm_here(partial(self._confirmed, begin))

    def leave(self, begin: Beginning) -> None:
        """Nobody waits for it any more."""
        begin.is_left = True
        if begin.transaction is not None:
            self.end(begin.transaction, TransactionEnded(f"{ROLLED_BACK}: nobody waited for it"))
        elif not begin.is_over:
            self._refuse(begin, OperationalError("the caller did not wait until the transaction began"))

    def _granted(self, begin: Beginning, error: Error | None) -> None:
        if error is not None:
            self._refuse(begin, error)
        elif begin.read_index is not None:
            self._catch_up(begin, begin.read_index)

    def _confirmed(self, begin: Beginning, index: LogIndex | None) -> None:
        if begin.is_over:
            return
        if index is None:
            self._refuse(begin, NotLeader("leadership was lost before the transaction began"))
            return
        begin.read_index = index
        if begin.lock is not None and begin.lock.is_held:
            self._catch_up(begin, index)

    def _catch_up(self, begin: Beginning, index: LogIndex) -> None:
        """What earlier leaders committed may still be on its way to the database."""
        applied = self._applier().when_applied(begin.database, index)
        if applied is None:
            self._start(begin)
        else:
            applied.add_done_callback(lambda done: self._caught_up(begin, done))

    def _caught_up(self, begin: Beginning, done: asyncio.Future[None]) -> None:
        if done.cancelled():
            self._refuse(begin, OperationalError("the database was closed or replaced while it waited"))
        elif not begin.is_over:
            self._start(begin)

    def _start(self, begin: Beginning) -> None:
        assert begin.queue is not None
        assert begin.lock is not None
        worker = self._applier().workers.get(begin.database)
        engine = worker.engine if worker is not None else None
        if engine is None:
            self._refuse(begin, OperationalError(f"no such database here (yet): {begin.database}"))
            return
        if begin.base_index is not None and begin.base_index != engine.applied_index:
            self._refuse(
                begin,
                SnapshotConflict(
                    "database is locked: it was changed since this transaction read it, roll back and run it again",
                    code=BUSY_SNAPSHOT,
                ),
            )
            return
        transaction = Transaction(
            transaction_id=begin.id,
            database=begin.database,
            owner=begin.owner,
            limits=begin.limits,
            start=engine.live_begin,
            queue=begin.queue,
            lock=begin.lock,
            key=self._writes.sessions.take(begin.database),
            now_us=self._log_clock.now_us(),
            seed=self._random.randbytes(16),
            on_ended=self._ended_by_itself,
        )
        self._over(begin)
        begin.transaction = transaction
        self._open[transaction] = None
        if transaction.id:
            self._by_id[transaction.id] = transaction
        self._watch(transaction)
        begin.callback(transaction, None)

    def _refuse(self, begin: Beginning, error: Error) -> None:
        if begin.is_over:
            return
        self._over(begin)
        if begin.queue is not None and begin.lock is not None:
            begin.queue.release(begin.lock)
        begin.callback(None, error)

    def _over(self, begin: Beginning) -> None:
        begin.is_over = True
        self._beginning.pop(begin, None)

    # -- commit and rollback --------------------------------------------------------------------------------

    def commit(
        self, transaction: Transaction, unit: bytes | None, callback: UnitCallback, deadline: Deadline
    ) -> None:
        """Propose what Transaction.finish gave; `callback` hears exactly once: (log index, result) or an error."""
        if transaction.why_ended is not None:
            callback(None, transaction.why_ended)
            return
        if unit is None:
            self.close(transaction)
            callback(NOTHING_WRITTEN, None)
            return
        refusal = self._view.refusal(write=True)
        if refusal is not None:
            self.close(transaction)
            callback(None, refusal)
            return
        self._forget(transaction)
        answered = partial(self._committed, transaction, callback, deadline)
        transaction.queue.propose_as_holder(
            transaction.lock, unit, transaction.now_us, transaction.seed, answered
        )

    def _committed(
        self,
        transaction: Transaction,
        callback: UnitCallback,
        deadline: Deadline,
        outcome: Any,
        error: Error | None,
    ) -> None:
        if error is None and outcome[1][0] == SESSION_EXPIRED:
            # The key is new, and the unit was proposed once. The database is another one of that name, most likely.
            callback(None, TransactionEnded(f"{ROLLED_BACK}: {outcome[1][1]}; nothing of it happened"))
        elif error is None:
            self._writes.sessions.give_back(transaction.database, transaction.key)
            callback(outcome, None)
        elif error.outcome is Outcome.UNKNOWN:
            key = transaction.commit_key
            if key != transaction.key:  # that was not used
                self._writes.sessions.give_back(transaction.database, transaction.key)
            ask_what_became(self._writes, transaction.database, key, callback, deadline)
        else:
            self._writes.sessions.give_back(transaction.database, transaction.key)
            if isinstance(error, (NotLeader, Overwritten)):
                error = _lost_leadership(error)
            callback(None, error)

    def close(self, transaction: Transaction) -> None:
        """Its caller has rolled it back, or it has written nothing."""
        if self._forget(transaction):
            if transaction.why_ended is None:
                transaction.why_ended = TransactionEnded(ROLLED_BACK)
            self._give_back(transaction)

    def _ended_by_itself(self, transaction: Transaction) -> None:
        """Any thread: a statement has ended it."""
        self._post(self.close, transaction)

    # -- its end by the node --------------------------------------------------------------------------------

    def end(self, transaction: Transaction, why: Error) -> None:
        """Roll it back for this reason, which later calls hear; the database is free when that is done."""
        if not self._forget(transaction):
            return
        transaction.doom(why)
        if transaction.id:
            self._ended[transaction.id] = why
            if len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)
        undone = self.loop.run_in_executor(self.executor, transaction.undo)
        self._undoing[undone] = transaction.database
        undone.add_done_callback(partial(self._undone, transaction))

    def _undone(self, transaction: Transaction, done: asyncio.Future[None]) -> None:
        self._undoing.pop(done, None)
        if not done.cancelled():
            done.exception()  # a connection that cannot roll back shows when the log is applied next
        self._give_back(transaction)

    def _give_back(self, transaction: Transaction) -> None:
        self._writes.sessions.give_back(transaction.database, transaction.key)
        transaction.queue.release(transaction.lock)

    def _forget(self, transaction: Transaction) -> bool:
        """False when it is over already."""
        if self._open.pop(transaction, self) is self:
            return False
        self._by_id.pop(transaction.id, None)
        transaction.timer.cancel()
        return True

    def _watch(self, transaction: Transaction) -> None:
        left_s = transaction.left_s()
        if left_s > 0:
            transaction.timer = self.loop.call_later(left_s, self._watch, transaction)
        else:
            self.end(transaction, transaction.over_limit())

    def lost_leadership(self) -> None:
        """Queued ones have heard it from their queue."""
        for begin in list(self._beginning):  # those that hold the database and catch up: it is theirs no more
            self._refuse(begin, NotLeader("leadership was lost before the transaction began"))
        for transaction in list(self._open):
            self.end(transaction, _lost_leadership(None))

    def caller_gone(self, owner: object) -> None:
        """The connection of another process is closed."""
        gone = TransactionEnded(f"{ROLLED_BACK}: the connection that it came by was closed")
        for begin in [begin for begin in self._beginning if begin.owner is owner]:
            self._refuse(begin, gone)
        for transaction in [one for one in self._open if one.owner is owner]:
            self.end(transaction, gone)

    async def end_all(self, why: str, database: str | None = None) -> None:
        """Return when none (of `database`) is open on a connection any more."""
        ended = TransactionEnded(f"{ROLLED_BACK}: {why}")
        for begin in [begin for begin in self._beginning if database in (None, begin.database)]:
            self._refuse(begin, ended)
        for transaction in [one for one in self._open if database in (None, one.database)]:
            self.end(transaction, ended)
        undoing = [future for future, name in self._undoing.items() if database in (None, name)]
        if undoing:
            await asyncio.wait(undoing)

    # -- of other processes -----------------------------------------------------------------------------------

    def get(self, transaction_id: bytes, owner: object) -> Transaction:
        """Raises TransactionEnded, with the reason where it is known."""
        found = self._by_id.get(transaction_id)
        if found is not None and found.owner is owner:
            return found
        why = self._ended.get(transaction_id)
        if why is not None:
            raise type(why)(why.message)
        raise TransactionEnded(f"{ROLLED_BACK}: this node does not know it (any more)")

    def drop(self, transaction_id: bytes, owner: object) -> None:
        """Roll it back, open or waiting; no error when there is none."""
        found = self._by_id.get(transaction_id)
        if found is not None and found.owner is owner:
            self.end(found, TransactionEnded(ROLLED_BACK))
        for begin in [one for one in self._beginning if one.id == transaction_id and one.owner is owner]:
            self.leave(begin)

    def check_new(self, transaction_id: bytes) -> None:
        """Raises InterfaceError when there is one of that id."""
        if transaction_id in self._by_id or any(begin.id == transaction_id for begin in self._beginning):
            raise InterfaceError("there is a transaction of that id already")


def ask_what_became(
    writes: Writes, database: str, key: Any, callback: UnitCallback, deadline: Deadline
) -> None:
    """Of a COMMIT whose answer was lost: `callback` hears its outcome, or that it certainly never will happen."""

    def told(outcome: Any, error: Error | None) -> None:
        if error is None and outcome[1][0] == NEVER_APPLIED:
            callback(None, _lost_leadership(None))
        else:
            callback(outcome, error)

    writes.submit(fence(database, key, told, deadline))


def _lost_leadership(error: Error | None) -> TransactionEnded:
    why = "the node that ran it lost leadership" if error is None else str(error)
    return TransactionEnded(f"{ROLLED_BACK}: {why}; nothing of it happened")
