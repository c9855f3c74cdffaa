"""Results that are not here as a whole: the rest of a stream, and the frozen state it may read from.

A frozen state (ReadTransaction) outlives its transaction on this side for as long as a result is read from it, as in
SQLite, where COMMIT does not end a running SELECT; the node's limits still hold.
"""

from __future__ import annotations

from dqlite_py.dbapi.steps import NO_KEYWORDS, Steps
from dqlite_py.gateway import AsyncReadTransaction, AsyncRowStream, ReadTransaction, Row, RowStream


class Reader:
    """A ReadTransaction and how many results still need it."""

    __slots__ = ("_is_closed", "_is_over", "_users", "transaction")

    def __init__(self, transaction: ReadTransaction | AsyncReadTransaction) -> None:
        self.transaction = transaction
        self._users = 0
        self._is_over = False
        self._is_closed = False

    def use(self) -> None:
        self._users += 1

    def leave(self) -> Steps[None]:
        self._users -= 1
        yield from self._close_unused()

    def end(self) -> Steps[None]:
        """Its transaction is over: close it now, or with the last result that reads from it."""
        self._is_over = True
        yield from self._close_unused()

    def _close_unused(self) -> Steps[None]:
        if self._is_over and self._users <= 0 and not self._is_closed:
            self._is_closed = True
            yield self.transaction.close, (), NO_KEYWORDS


class Rest:
    """The rows of one result that have not been fetched from the node."""

    __slots__ = ("_reader", "_rests", "_stream")

    def __init__(self, stream: RowStream | AsyncRowStream, reader: Reader | None, rests: set[Rest]) -> None:
        self._stream: RowStream | AsyncRowStream | None = stream
        self._reader = reader
        self._rests = rests
        rests.add(self)
        if reader is not None:
            reader.use()

    def fetch(self) -> Steps[list[Row]]:
        """The next rows; [] at the end."""
        if self._stream is None:
            return []
        rows: list[Row] = yield self._stream.fetch, (), NO_KEYWORDS
        if not rows:
            yield from self.close()
        return rows

    def close(self) -> Steps[None]:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        self._rests.discard(self)
        try:
            yield stream.close, (), NO_KEYWORDS
        finally:
            if self._reader is not None:
                yield from self._reader.leave()
