"""Transactions as callers see them on the node's loop: here on the leader, or at the leader by RPC. Loop thread.

Both have the same methods; `begin_anywhere` finds out which. A connection that breaks ends the transaction; one that
breaks during COMMIT leaves its outcome to be asked for (node.transactions.ask_what_became).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

from dqlite_py.errors import (
    DatabaseLocked,
    Error,
    IntegrityError,
    MalformedMessage,
    NodeStopped,
    NoLeader,
    NotLeader,
    Outcome,
    OutcomeUnknown,
    TransactionEnded,
)
from dqlite_py.model import NodeId, WriteKey
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.transaction import ROLLED_BACK, GroupResult, Transaction
from dqlite_py.node.transaction_wire import checked_key, group_answer, log_index_answer
from dqlite_py.node.transactions import (
    NOTHING_WRITTEN,
    BeginCallback,
    Beginning,
    Transactions,
    ask_what_became,
)
from dqlite_py.node.writes import Call, Writes
from dqlite_py.raft.rpc import RpcLost, RpcNotSent
from dqlite_py.sqlite_codes import BUSY

GRACE_S: Final = 1.0  # the leader's answer to what took its whole time travels
ID_BYTES: Final = 16


class LoopTransaction(Protocol):
    """An open transaction, for callers on the loop; one call at a time but for `interrupt`."""

    @property
    def is_open(self) -> bool: ...
    async def run(self, body: bytes, timeout_s: float) -> GroupResult: ...
    async def commit(self, timeout_s: float) -> tuple[int, Any]: ...
    async def rollback(self) -> None: ...
    def interrupt(self) -> None: ...
    def unknown_commit(self, timeout_s: float) -> OutcomeUnknown: ...


class HostedTransaction:
    """On this leader: its statements run on the transactions' threads."""

    def __init__(self, transaction: Transaction, transactions: Transactions) -> None:
        self.transaction = transaction
        self._transactions = transactions
        self._turn = transaction.turn

    @property
    def is_open(self) -> bool:
        return self.transaction.is_open

    async def run(self, body: bytes, timeout_s: float) -> GroupResult:
        number = self.transaction.ask()  # BEFORE it waits: an interrupt counts from now on
        async with self._turn:
            return cast(GroupResult, await self._on_thread(self.transaction.run, body, timeout_s, number))

    async def commit(self, timeout_s: float, key: WriteKey | None = None) -> tuple[int, Any]:
        async with self._turn:
            deadline = Deadline(timeout_s)
            if key is not None:
                self.transaction.commit_key = key
            unit = await self._on_thread(self.transaction.finish)
            done: asyncio.Future[tuple[int, Any]] = self._transactions.loop.create_future()
            self._transactions.commit(self.transaction, unit, settle(done), deadline)
            try:
                async with asyncio.timeout(deadline.left_s):
                    return await done
            except TimeoutError:
                raise unknown_commit(self.transaction.commit_key, timeout_s) from None

    async def rollback(self) -> None:
        self._transactions.end(self.transaction, TransactionEnded(ROLLED_BACK))

    def interrupt(self) -> None:
        self.transaction.interrupt()

    def unknown_commit(self, timeout_s: float) -> OutcomeUnknown:
        return unknown_commit(self.transaction.commit_key, timeout_s)

    def _on_thread(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Shielded: what is begun is finished; a shield whose waiter is gone looks at no error."""
        work = self._transactions.loop.run_in_executor(self._transactions.executor, function, *args)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        return asyncio.shield(work)


class ForwardedTransaction:
    """On another node, the leader, by RPC."""

    def __init__(
        self,
        transaction_id: bytes,
        database: str,
        leader: NodeId,
        key: WriteKey,
        *,
        call: Call,
        writes: Writes,
        spawn: Callable[[Any], Any],
        asking: dict[ForwardedTransaction, None],
    ) -> None:
        self.leader = leader
        self._id = transaction_id
        self._database = database
        self._key = key
        self._log_time_us = key.sequence  # of its entry, nearly
        self._call = call
        self._writes = writes
        self._spawn = spawn
        self._asking = asking
        self._request: asyncio.Future[Any] | None = None
        self._is_deposed = False
        self._why_ended: Error | None = None
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._why_ended is None

    async def run(self, body: bytes, timeout_s: float) -> GroupResult:
        async with self._turn:
            self._check()
            request = {"id": self._id, "body": body, "timeout_s": timeout_s}
            try:
                found = group_answer(await self._ask("tx.run", request, timeout_s + GRACE_S))
            except (RpcLost, RpcNotSent, MalformedMessage, NotLeader, NodeStopped) as error:
                raise self._lost(error) from None
            except TransactionEnded as error:
                self._why_ended = error
                raise
            if not found.is_open:
                self._why_ended = TransactionEnded(f"{ROLLED_BACK}: a statement of it failed")
            return found

    async def commit(self, timeout_s: float) -> tuple[int, Any]:
        async with self._turn:
            self._check()
            deadline = Deadline(timeout_s)
            over = TransactionEnded("the transaction is over")
            # Of our own session: the leader's may have gone on to another write when we ask what became of this one.
            sessions = self._writes.sessions
            key = self._key = sessions.take_at(self._database, self._log_time_us)
            body = {"id": self._id, "key": list(key), "timeout_s": timeout_s}
            try:
                answer = await self._ask("tx.commit", body, timeout_s)
            except IntegrityError:  # deferred foreign keys: it is still open
                sessions.give_back(self._database, key)
                raise
            except (RpcNotSent, NotLeader, NodeStopped) as error:
                sessions.give_back(self._database, key)
                raise self._lost(error) from None
            except RpcLost:
                self._why_ended = over
                return await self._what_became(deadline)
            except Error as error:
                self._why_ended = over
                if error.outcome is Outcome.UNKNOWN:
                    return await self._what_became(deadline)
                sessions.give_back(self._database, key)
                raise
            self._why_ended = over
            try:
                index = log_index_answer(answer)
            except MalformedMessage:
                return await self._what_became(deadline)
            sessions.give_back(self._database, key)
            return index, NOTHING_WRITTEN[1]

    async def _what_became(self, deadline: Deadline) -> tuple[int, Any]:
        """Of a COMMIT; its session is not used again, so that it can be asked for later, too."""
        if deadline.passed:
            raise unknown_commit(self._key, deadline.timeout_s)
        done: asyncio.Future[tuple[int, Any]] = asyncio.get_running_loop().create_future()
        ask_what_became(self._writes, self._database, self._key, settle(done), deadline)
        return await done

    async def rollback(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Not waited for: whatever becomes of the request, nothing of the transaction happens."""
        if self._why_ended is None:
            self._why_ended = TransactionEnded(ROLLED_BACK)
            self._tell("tx.rollback")

    def interrupt(self) -> None:
        self._tell("tx.interrupt")

    def unknown_commit(self, timeout_s: float) -> OutcomeUnknown:
        return unknown_commit(self._key, timeout_s)

    def _tell(self, method: str) -> None:
        self._spawn(tell(self._call, self.leader, method, self._id))

    async def _ask(self, method: str, body: Any, timeout_s: float) -> Any:
        """Ask the leader it was begun at; raises RpcLost as soon as another one leads."""
        self._request = asyncio.ensure_future(self._call(self.leader, method, body, timeout_s))
        self._asking[self] = None
        try:
            return await self._request
        except asyncio.CancelledError:
            if self._is_deposed:
                raise RpcLost("another node leads now") from None
            raise
        finally:
            del self._asking[self]
            self._request.cancel()

    def deposed(self) -> None:
        """Another node leads: an answer may never come, and would change nothing."""
        self._is_deposed = True
        if self._request is not None:
            self._request.cancel()

    def _lost(self, error: Exception) -> TransactionEnded:
        self._why_ended = TransactionEnded(
            f"{ROLLED_BACK}: the connection to the leader broke ({error}); nothing of it happened"
        )
        self._tell("tx.rollback")
        return self._why_ended

    def _check(self) -> None:
        if self._why_ended is not None:
            raise type(self._why_ended)(self._why_ended.message)


class TransactionCalls:
    """Begins transactions wherever the leader is."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        view: ClusterView,
        writes: Writes,
        transactions: Transactions,
        call: Call,
        spawn: Callable[[Any], Any],
    ) -> None:
        self._loop = loop
        self._view = view
        self._writes = writes
        self._transactions = transactions
        self._call = call
        self._spawn = spawn
        self._asking: dict[ForwardedTransaction, None] = {}  # requests under way
        view.watchers.append(self._look_at_leader)

    def _look_at_leader(self) -> None:
        leader = self._view.writing_leader
        if leader is not None:
            for transaction in [one for one in self._asking if one.leader != leader]:
                transaction.deposed()

    def begin_anywhere(self, begin: Beginning) -> None:
        """`begin.callback` hears exactly once: a Transaction of this leader's, a ForwardedTransaction, or an error."""
        if not self._view.is_ready_leader:
            self._spawn(self._begin_away(begin, Deadline(begin.wait_s), begin.callback))
            return
        callback, deadline = begin.callback, Deadline(begin.wait_s)

        def begun(transaction: Any, error: Error | None) -> None:
            if isinstance(error, NotLeader) and not deadline.passed:
                self._spawn(self._begin_away(begin, deadline, callback))
            else:
                callback(transaction, error)

        begin.callback = begun
        self._transactions.begin(begin)

    def leave(self, begin: Beginning) -> None:
        """Nobody waits for it any more: what has begun is rolled back, what has not will not."""
        begin.is_left = True
        if begin.found is not None:
            begin.found.abandon()
        elif begin.asked is not None:
            self._spawn(tell(self._call, begin.asked[0], "tx.rollback", begin.asked[1]))
        else:
            self._transactions.leave(begin)

    async def _begin_away(self, begin: Beginning, deadline: Deadline, callback: BeginCallback) -> None:
        try:
            found = await self._begin_at_leader(begin, deadline)
        except Error as error:
            callback(None, error)
        except asyncio.CancelledError:
            callback(None, NodeStopped("the node is stopping"))
            raise
        else:
            if isinstance(found, ForwardedTransaction):
                begin.found = found
                if begin.is_left:
                    found.abandon()
            callback(found, None)

    async def _begin_at_leader(self, begin: Beginning, deadline: Deadline) -> Any:
        while True:
            refusal = self._view.refusal(write=False)
            if refusal is not None:
                raise refusal
            await self._view.wait_for_leader(deadline)
            leader = self._view.remote_leader
            try:
                if leader is None:
                    return await self._begin_here(begin, deadline)
                return await self._begin_at(leader, begin, deadline)
            except (RpcLost, RpcNotSent, NotLeader, NoLeader, NodeStopped) as error:
                if leader is None and isinstance(error, NodeStopped):
                    raise
                if deadline.passed or begin.is_left:
                    raise NoLeader(f"no leader took the transaction in time: {error}") from None
            await self._view.wait_change(min(0.05, deadline.left_s))

    async def _begin_here(self, begin: Beginning, deadline: Deadline) -> Any:
        done: asyncio.Future[Any] = self._loop.create_future()
        begin.callback, begin.is_over, begin.wait_s = settle(done), False, deadline.left_s
        begin.read_index = None
        self._transactions.begin(begin)
        return await done

    async def _begin_at(self, leader: NodeId, begin: Beginning, deadline: Deadline) -> ForwardedTransaction:
        transaction_id = secrets.token_bytes(ID_BYTES)
        body = {
            "id": transaction_id,
            "database": begin.database,
            "wait_s": deadline.left_s,
            "idle_s": begin.limits.idle_s,
            "hold_s": begin.limits.hold_s,
            "base_index": begin.base_index,
        }
        begin.asked = leader, transaction_id
        try:
            key = checked_key(await self._call(leader, "tx.begin", body, deadline.left_s + GRACE_S))
        except (RpcLost, MalformedMessage) as error:
            self._spawn(tell(self._call, leader, "tx.rollback", transaction_id))
            if deadline.passed:
                raise DatabaseLocked(
                    f"database is locked: no answer within {deadline.timeout_s:g} s: {error}",
                    code=BUSY,
                ) from None
            raise RpcLost(str(error)) from None
        finally:
            begin.asked = None
        return ForwardedTransaction(
            transaction_id,
            begin.database,
            leader,
            key,
            call=self._call,
            writes=self._writes,
            spawn=self._spawn,
            asking=self._asking,
        )


async def tell(call: Call, leader: NodeId, method: str, transaction_id: bytes) -> None:
    """Ask for what is given up anyway when the request does not arrive: by the end of the connection."""
    try:
        await call(leader, method, {"id": transaction_id}, GRACE_S)
    except (RpcLost, RpcNotSent, Error):
        return


def unknown_commit(key: WriteKey, timeout_s: float) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"no answer within {timeout_s:g} s: the transaction may or may not be committed; its key tells later",
        session=key.session,
        sequence=key.sequence,
    )


def settle(future: asyncio.Future[Any]) -> Callable[[Any, Error | None], None]:
    """A callback that ends `future`."""

    def done(value: Any, error: Error | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    return done
