"""RPC methods of programs and followers that write: transactions (tx.*), units and their outcome (sql.*). Loop thread.

tx.* act on the leader, another node answers NotLeader (node.transaction_wire says what they hold); a transaction
belongs to the connection that began it and ends with it. sql.* may be asked of any node:
sql.execute {database, body, timeout_s, once, key|nil} -> [log_index, result], packed as a unit's. `once` without a key:
  tried again inside, under a key of this node's, which an OutcomeUnknown names; with [session, sequence] under the
  caller's, which may ask again by it.
sql.resolve {database, key, timeout_s} -> the same, of what the key's write did, or NeverApplied
Both give [log_index, result, log_time_us]: the log's time as known here, which a caller's next sequence exceeds.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dqlite_py.errors import (
    Error,
    MalformedMessage,
    NotLeader,
    OutcomeUnknown,
    RequestTooLarge,
    TransactionEnded,
)
from dqlite_py.node.database_worker import pack_result, unit_error
from dqlite_py.node.fields import (
    RESULTS_BYTES_MAX,
    database_of,
    field,
    id_of,
    limits_of,
    seconds_of,
    timeout_of,
)
from dqlite_py.node.local_transactions import MARGIN_S
from dqlite_py.node.pending_write import PendingWrite, fence
from dqlite_py.node.programs import Handler
from dqlite_py.node.runtime_parts import Parts
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.transaction import ROLLED_BACK
from dqlite_py.node.transaction_calls import HostedTransaction, settle
from dqlite_py.node.transaction_wire import checked_key
from dqlite_py.node.transactions import Beginning
from dqlite_py.sqltext import StatementKind, describe
from dqlite_py.units import check_body, texts_of


class TransactionServices:
    """Registers the handlers on the transport."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def register(self) -> None:
        ended: dict[str, Handler] = {
            "tx.begin": self.begin,
            "sql.execute": self.execute,
            "sql.resolve": self.resolve,
        }
        finished: dict[str, Handler] = {
            "tx.run": self.run,
            "tx.commit": self.commit,
            "tx.rollback": self.rollback,
            "tx.interrupt": self.interrupt,
        }
        transport, programs = self._parts.transport, self._parts.programs
        for method, handler in (ended | finished).items():
            transport.register(method, handler)
        programs.add(ended, ends_when_cancelled=True)
        programs.add(finished)
        transport.watch_callers(self._parts.transactions.caller_gone)
        programs.watch_callers(self._parts.transactions.caller_gone)

    # -- transactions -----------------------------------------------------------------------------------------

    async def begin(self, context: Any, body: Any) -> Any:
        transaction_id, database = id_of(body), database_of(body)
        base_index = body.get("base_index")
        if base_index is not None and type(base_index) is not int:
            raise MalformedMessage("field 'base_index' must be a log index or nil", what="base_index")
        transactions = self._parts.transactions
        transactions.check_new(transaction_id)
        if not context.connection.is_open:
            raise TransactionEnded("the connection that it came by was closed")
        done: asyncio.Future[Any] = self._parts.loop.create_future()
        begin = Beginning(
            database,
            seconds_of(body, "wait_s"),
            limits_of(body),
            settle(done),
            base_index=base_index,
            owner=context.connection,
            transaction_id=transaction_id,
        )
        transactions.begin(begin)
        try:
            transaction = await done
        except asyncio.CancelledError:
            transactions.leave(begin)
            raise
        return list(transaction.key)

    def _hosted(self, context: Any, body: Any) -> HostedTransaction:
        transactions = self._parts.transactions
        if not self._parts.view.is_ready_leader:
            raise self._parts.view.not_leader()
        return HostedTransaction(transactions.get(id_of(body), context.connection), transactions)

    async def run(self, context: Any, body: Any) -> Any:
        hosted = self._hosted(context, body)
        found = await hosted.run(check_body(field(body, "body", bytes)), timeout_of(body))
        if len(found.results) > RESULTS_BYTES_MAX:
            raise self._too_large(hosted, body["body"], len(found.results))
        return [found.results, found.is_open, None if found.decltypes is None else list(found.decltypes)]

    def _too_large(self, hosted: HostedTransaction, statements: bytes, size: int) -> Error:
        """What is told as failed must not be there: a transaction that has written is ended."""
        why = f"the statements' result of {size} bytes does not fit into an answer"
        if all(describe(sql).kind is StatementKind.READ for sql in texts_of(statements)):
            return RequestTooLarge(f"{why}: use LIMIT or select parts by substr()")
        ended = TransactionEnded(f"{ROLLED_BACK}: {why}")
        self._parts.transactions.end(hosted.transaction, ended)
        return ended

    async def commit(self, context: Any, body: Any) -> Any:
        hosted = self._hosted(context, body)
        key = None if body.get("key") is None else checked_key(body.get("key"))
        index, result = await hosted.commit(timeout_of(body), key)
        error = unit_error(result)
        if error is not None:
            raise error
        return index

    async def rollback(self, context: Any, body: Any) -> Any:
        """Also of one that is still waiting to begin."""
        self._parts.transactions.drop(id_of(body), context.connection)

    async def interrupt(self, context: Any, body: Any) -> Any:
        try:
            self._hosted(context, body).interrupt()
        except (NotLeader, TransactionEnded):
            return

    # -- units --------------------------------------------------------------------------------------------------

    async def execute(self, _context: Any, body: Any) -> Any:
        database, statements = database_of(body), check_body(field(body, "body", bytes))
        key = None if body.get("key") is None else checked_key(body.get("key"))
        done: asyncio.Future[Any] = self._parts.loop.create_future()
        write = PendingWrite(
            database,
            statements,
            settle(done),
            Deadline(timeout_of(body)),
            once=key is None and field(body, "once", bool, True),
            key=key,
        )
        return await self._written(write, done)

    async def resolve(self, _context: Any, body: Any) -> Any:
        database, key = database_of(body), checked_key(field(body, "key", list))
        done: asyncio.Future[Any] = self._parts.loop.create_future()
        return await self._written(fence(database, key, settle(done), Deadline(timeout_of(body))), done)

    async def _written(self, write: PendingWrite, done: asyncio.Future[Any]) -> Any:
        self._parts.writes.submit(write)
        try:
            async with asyncio.timeout(write.deadline.left_s + MARGIN_S):
                index, result = await done
        except TimeoutError:
            raise write.give_up() from None
        except asyncio.CancelledError:
            self._parts.writes.withdraw(write)
            raise
        error = unit_error(result)
        if error is not None:
            raise error
        packed = pack_result(result)
        if len(packed) > RESULTS_BYTES_MAX:
            raise OutcomeUnknown(
                f"the write was committed, but its result of {len(packed)} bytes does not fit into the answer"
            )
        return [index, packed, self._parts.applier().log_time_us]
