"""Transactions for user threads (gateway.WriteTransaction): blocking, one call at a time.

Where this node leads, statements run on the caller's own thread, on the database's writer connection; only BEGIN and
COMMIT go through the loop. Elsewhere every call is handed to the loop, which asks the leader.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from dqlite_py.errors import Error, NodeStopped, OutcomeUnknown
from dqlite_py.gateway import Interrupt, StatementResult, UnitResult
from dqlite_py.node.database_worker import unit_error
from dqlite_py.node.tickets import Deadline, Inbox, Ticket
from dqlite_py.node.transaction import Transaction, group_results
from dqlite_py.node.transaction_calls import GRACE_S, ForwardedTransaction, unknown_commit
from dqlite_py.node.transactions import Transactions

MARGIN_S: Final = 0.5  # for a busy loop, and a leader's answer
Begin = Callable[[], Coroutine[Any, Any, Any]]
"""Makes a coroutine on the loop, where it is awaited at once: one made elsewhere might never be."""
RunOnLoop = Callable[[Begin, float, Callable[[], Error]], Any]  # time-out, the error then


def committed(outcome: tuple[int, Any]) -> UnitResult:
    """What `commit` returns; raises the error of the transaction's unit."""
    index, result = outcome
    error = unit_error(result)
    if error is not None:
        raise error
    return UnitResult(index, [])


class LocalTransaction:
    """On this node, the leader."""

    def __init__(self, transaction: Transaction, transactions: Transactions, inbox: Inbox) -> None:
        self._transaction = transaction
        self._transactions = transactions
        self._inbox = inbox

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open

    def run(self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None) -> list[StatementResult]:
        transaction = self._transaction
        if interrupt is None:
            return group_results(transaction.run(body, timeout_s))
        number = transaction.ask()
        interrupt.set(transaction.interrupt)
        try:
            return group_results(transaction.run(body, timeout_s, number))
        finally:
            interrupt.set(None)

    def commit(self, timeout_s: float) -> UnitResult:
        transaction = self._transaction
        unit = transaction.finish()
        ticket = Ticket(self._inbox.turns)
        self._inbox.put(self._transactions.commit, transaction, unit, ticket.resolve, Deadline(timeout_s))
        return committed(
            ticket.wait(timeout_s + MARGIN_S, lambda: unknown_commit(transaction.key, timeout_s))
        )

    def rollback(self) -> None:
        self._transaction.undo()
        try:
            self._inbox.put(self._transactions.close, self._transaction)
        except NodeStopped:
            return  # which ends all transactions


class BlockingTransaction:
    """At the leader, wherever that is."""

    def __init__(self, transaction: ForwardedTransaction, run_on_loop: RunOnLoop, inbox: Inbox) -> None:
        self._transaction = transaction
        self._run_on_loop = run_on_loop
        self._inbox = inbox
        self._is_rolled_back = False

    @property
    def is_open(self) -> bool:
        return not self._is_rolled_back and self._transaction.is_open

    def run(self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None) -> list[StatementResult]:
        if interrupt is not None:
            interrupt.set(self._interrupt)
        try:
            found = self._run_on_loop(
                partial(self._transaction.run, body, timeout_s),
                timeout_s + GRACE_S,
                lambda: OutcomeUnknown(f"no answer within {timeout_s:g} s"),
            )
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            if interrupt is not None:
                interrupt.set(None)
        return group_results(found)

    def commit(self, timeout_s: float) -> UnitResult:
        transaction = self._transaction
        return committed(
            self._run_on_loop(
                partial(transaction.commit, timeout_s),
                timeout_s,
                lambda: transaction.unknown_commit(timeout_s),
            )
        )

    def rollback(self) -> None:
        self._is_rolled_back = True
        try:
            self._inbox.put(self._transaction.abandon)  # BEFORE whatever is asked for next
        except NodeStopped:
            return  # which ends all transactions

    def _interrupt(self) -> None:
        try:
            self._inbox.put(self._transaction.interrupt)
        except NodeStopped:
            return
