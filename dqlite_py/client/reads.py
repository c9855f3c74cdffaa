"""Reads of a program: results in pieces from the node that read them, and frozen states. Loop thread.

A read is asked of another node when one does not answer; the rest of a result and a frozen state stay with their node
and end with it, or with the connection. The next piece is asked for while the program looks at the one before.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from dqlite_py.client import answers
from dqlite_py.client.attempts import ID_BYTES, Attempts
from dqlite_py.client.link import Link, Opened
from dqlite_py.errors import Error, MalformedMessage, OperationalError, TransactionEnded
from dqlite_py.gateway import Freshness, Interrupt, QueryResult, ReadLevel, Row, SqlParams, TransactionLimits
from dqlite_py.limits import REQUEST_TIMEOUT_MS

_AT_LEADER: Final = (ReadLevel.LINEARIZABLE, ReadLevel.LEADER)


async def query(
    link: Link,
    database: str,
    sql: str,
    params: SqlParams,
    freshness: Freshness,
    timeout_s: float,
    interrupt: Interrupt | None = None,
) -> Found:
    """See Gateway.query."""
    attempts = Attempts(link, timeout_s, leader=freshness.level in _AT_LEADER, closes="sql.close")
    body = {"database": database, "sql": sql, "params": params, **_fresh(freshness)}
    return await _query(
        link,
        attempts.ask("sql.query", body, answers.query_answer),
        lambda: Opened(link, attempts.target, attempts.id),
        timeout_s,
        interrupt,
    )


async def begin_read(
    link: Link, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
) -> FrozenState:
    """See Gateway.begin_read."""
    attempts = Attempts(link, timeout_s, leader=freshness.level in _AT_LEADER, closes="sql.close")
    body = {"database": database, "idle_s": limits.idle_s, "hold_s": limits.hold_s, **_fresh(freshness)}
    try:
        index = await attempts.ask("sql.begin_read", body, answers.index_answer)
    except BaseException:
        Opened(link, attempts.target, attempts.id).tell("sql.close")
        raise
    return FrozenState(link, Opened(link, attempts.target, attempts.id), index)


async def open_database(link: Link, database: str, timeout_s: float) -> None:
    """See Gateway.open_database: on the node that is asked whatever any node can answer."""
    attempts = Attempts(link, timeout_s, leader=False)
    told_us = await attempts.ask("sql.open", {"database": database}, answers.open_answer)
    link.log_time_us = max(link.log_time_us, told_us)  # or the first keys would be older than the database


async def is_read(link: Link, sql: str, database: str) -> bool:
    """See Gateway.is_read."""
    body = {"database": database, "sql": sql}
    attempts = Attempts(link, REQUEST_TIMEOUT_MS / 1000, leader=False)
    return await attempts.ask("sql.is_read", body, answers.bool_answer)


class FrozenState:
    """See gateway.AsyncReadTransaction."""

    def __init__(self, link: Link, opened: Opened, log_index: int) -> None:
        self._link = link
        self._opened = opened
        self._let_go = opened.keep()
        self._is_closed = False
        self.log_index = log_index

    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> Found:
        if self._is_closed:
            raise TransactionEnded("the read transaction is closed")
        opened = Opened(self._link, self._opened.address, secrets.token_bytes(ID_BYTES))
        body = {"transaction": self._opened.id, "sql": sql, "params": params}
        return await _query(
            self._link,
            opened.ask("sql.query", body, timeout_s, _state_is_lost, answers.query_answer),
            lambda: opened,
            timeout_s,
            interrupt,
        )

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._let_go()
            self._opened.tell("sql.close")


class Stream:
    """The rest of a result; see gateway.AsyncRowStream. `fetch` may take as long as the query was allowed to."""

    def __init__(self, link: Link, opened: Opened, timeout_s: float, interrupt: Interrupt | None) -> None:
        self._link = link
        self._opened = opened
        self._timeout_s = timeout_s
        self._interrupt = interrupt
        self._let_go = opened.keep()
        self._is_over = False
        self._next: asyncio.Task[tuple[list[Row], bool]] | None = link.spawn(self._ask())

    async def fetch(self) -> list[Row]:
        """A failure ends the stream, and so does cancelling it."""
        asked = self._next
        if asked is None:
            return []
        try:
            with interruptible(self._link, self._interrupt, lambda: self._opened, "sql.interrupt"):
                rows, is_last = await asyncio.shield(asked)
        except BaseException:
            self.close()
            raise
        if is_last:
            self._over()
        elif not self._is_over:
            self._next = self._link.spawn(self._ask())
        return rows

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        if not self._is_over:
            self._over()
            self._opened.tell("sql.close")

    def _over(self) -> None:
        if not self._is_over:
            self._next = None
            self._is_over = True
            self._let_go()

    async def _ask(self) -> tuple[list[Row], bool]:
        return await self._opened.ask("sql.fetch", {}, self._timeout_s, _rest_is_lost, answers.piece_answer)


Found = tuple[QueryResult, Stream | None]


async def _query(
    link: Link,
    work: Awaitable[tuple[QueryResult, bool]],
    opened: Callable[[], Opened],
    timeout_s: float,
    interrupt: Interrupt | None,
) -> Found:
    """`opened`: what stands for it at the node that has the request now, and at the end its result."""
    try:
        with interruptible(link, interrupt, opened, "sql.interrupt"):
            result, has_more = await work
    except (asyncio.CancelledError, MalformedMessage):
        opened().tell("sql.close")
        raise
    return result, Stream(link, opened(), timeout_s, interrupt) if has_more else None


@contextmanager
def interruptible(
    link: Link, interrupt: Interrupt | None, opened: Callable[[], Opened], method: str
) -> Iterator[None]:
    """While a request is under way, `interrupt` ends it at the node that has it."""
    if interrupt is None:
        yield
        return
    interrupt.set(lambda: link.soon(lambda: opened().tell(method)))
    try:
        yield
    finally:
        interrupt.set(None)


def _fresh(freshness: Freshness) -> dict[str, Any]:
    found: dict[str, Any] = {"level": freshness.level.value, "log_index": freshness.log_index}
    if freshness.max_staleness_s is not None:
        found["max_staleness_s"] = freshness.max_staleness_s
    return found


def _rest_is_lost(reason: str) -> Error:
    return OperationalError(f"the rest of the result is lost with its node: {reason}")


def _state_is_lost(reason: str) -> Error:
    return TransactionEnded(f"the read transaction is lost with its node: {reason}")
