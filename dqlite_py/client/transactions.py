"""Interactive transactions of a program: the leader runs them, one request for each call. Loop thread.

A transaction belongs to the connection by which it was begun. When that breaks, the leader rolls it back, and nothing
of it happened. Only COMMIT can be in doubt; it has a key, by which any node is asked what became of it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from dqlite_py.client import answers, writes
from dqlite_py.client.attempts import Attempts
from dqlite_py.client.link import Link, Opened
from dqlite_py.client.reads import interruptible
from dqlite_py.errors import (
    Error,
    IntegrityError,
    MalformedMessage,
    NeverApplied,
    NodeStopped,
    NotLeader,
    Outcome,
    OutcomeUnknown,
    TransactionEnded,
)
from dqlite_py.gateway import Interrupt, StatementResult, TransactionLimits, UnitResult
from dqlite_py.model import WriteKey

LEADER_WAIT_S: Final = 2.0  # for a leader, on top of waiting for the database
ROLLBACK_TIMEOUT_S: Final = 2.0


async def begin(
    link: Link, database: str, wait_s: float, limits: TransactionLimits, base_index: int | None
) -> Transaction:
    """See Gateway.begin."""
    attempts = Attempts(link, wait_s + LEADER_WAIT_S, closes="tx.rollback")
    body = {
        "database": database,
        "wait_s": wait_s,
        "idle_s": limits.idle_s,
        "hold_s": limits.hold_s,
        "base_index": base_index,
    }
    try:
        key = await attempts.ask("tx.begin", body, answers.key_answer)
    except BaseException:
        Opened(link, attempts.target, attempts.id).tell("tx.rollback")
        raise
    link.log_time_us = max(link.log_time_us, key.sequence)
    return Transaction(link, Opened(link, attempts.target, attempts.id), database, key.sequence)


class Transaction:
    """See gateway.AsyncWriteTransaction."""

    def __init__(self, link: Link, opened: Opened, database: str, log_time_us: int) -> None:
        self.is_open = True
        self.commit_key: WriteKey | None = None  # of a COMMIT that was asked for
        self._log_time_us = log_time_us  # of its entry
        self._link = link
        self._opened = opened
        self._database = database
        self._let_go = opened.keep()

    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]:
        """Cancelled: the transaction is rolled back."""
        self._check_open()
        try:
            with interruptible(self._link, interrupt, lambda: self._opened, "tx.interrupt"):
                found, is_open = await self._opened.ask(
                    "tx.run", {"body": body}, timeout_s, self._lost, answers.group_answer
                )
        except asyncio.CancelledError:
            self.abandon()
            raise
        except TransactionEnded:
            self._over()
            raise
        except (MalformedMessage, OutcomeUnknown, NotLeader, NodeStopped) as error:
            raise self._lost(
                error.message
            ) from None  # whether the statements are part of it is not known here
        if not is_open:
            self._over()
        if isinstance(found, Error):
            raise found
        return found

    async def commit(self, timeout_s: float) -> UnitResult:
        """Cancelled: it goes on, and whether it was committed is not known; `commit_key` tells when it is asked for."""
        self._check_open()
        deadline = asyncio.get_running_loop().time() + timeout_s
        key = self.commit_key = self._link.sessions.take_at(self._database, self._log_time_us)
        asked = self._link.spawn(
            self._opened.ask(
                "tx.commit", {"key": [*key]}, timeout_s, OutcomeUnknown, answers.index_answer, _not_asked
            )
        )
        try:
            index = await asyncio.shield(asked)
        except IntegrityError:  # deferred foreign keys: it is still open
            self.commit_key = None
            self._link.sessions.give_back(self._database, key)
            raise
        except Error as error:
            self._over()
            self._opened.tell(
                "tx.rollback"
            )  # a node that was too busy, or did not hear of COMMIT, has it still
            if error.outcome is not Outcome.UNKNOWN and not isinstance(error, MalformedMessage):
                self._link.sessions.give_back(self._database, key)
                raise
            left_s = deadline - asyncio.get_running_loop().time()
            return await self._what_became(key, error, left_s)
        except asyncio.CancelledError:
            self.is_open = False
            asked.add_done_callback(self._left_alone)
            raise
        self._over()
        self._link.sessions.give_back(self._database, key)
        return UnitResult(index, [])

    def _left_alone(self, asked: asyncio.Task[int]) -> None:
        """A COMMIT whose caller is gone is over: one that failed, or did not reach the node, leaves nothing open."""
        self._let_go()
        if asked.cancelled() or asked.exception() is not None:
            self._opened.tell("tx.rollback")

    async def _what_became(self, key: WriteKey, error: Error, left_s: float) -> UnitResult:
        if left_s <= 0:
            raise writes.with_key(OutcomeUnknown(error.message), key)
        try:
            result = await writes.resolve(self._link, self._database, key, left_s)
        except NeverApplied as never:
            raise TransactionEnded(f"{error.message}; nothing of the transaction happened: {never}") from None
        self._link.sessions.give_back(self._database, key)
        return result._replace(statements=[])

    async def rollback(self) -> None:
        """Returns when the node has done it, or will: without an answer it comes to it by itself."""
        if self.is_open:
            self._over()
            try:
                await self._opened.ask(
                    "tx.rollback", {}, ROLLBACK_TIMEOUT_S, TransactionEnded, lambda _: None
                )
            except Error:
                return
            except asyncio.CancelledError:
                self._opened.tell("tx.rollback")  # it may not have left
                raise

    def abandon(self) -> None:
        """Nobody goes on with it; a COMMIT under way is left alone."""
        if self.is_open:
            self._over()
            self._opened.tell("tx.interrupt")
            self._opened.tell("tx.rollback")

    def _check_open(self) -> None:
        if not self.is_open:
            raise TransactionEnded("the transaction is over: nothing of it happened")

    def _over(self) -> None:
        if self.is_open:
            self.is_open = False
            self._let_go()

    def _lost(self, reason: str) -> Error:
        self.abandon()
        return TransactionEnded(f"the transaction is lost with its node, nothing of it happened: {reason}")


def _not_asked(reason: str) -> Error:
    return TransactionEnded(f"COMMIT did not reach the node; nothing of the transaction happened: {reason}")
