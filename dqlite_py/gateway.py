"""What the API layers ask of a node: write a unit, read, run a transaction, open a database.

Only Protocols and their records; the ones with logic are Interrupt and Ending. Implemented by the embedded node
(node/), by the remote clients (client/, client/stock/) and, in tests, by tests/support/fakegateway.py; called by the
DB-API packages and by the servers of client protocols.
Methods of `Gateway` and its transactions block the calling user thread; those of `Gateway` are thread-safe, a
transaction or stream serves one call at a time. A KeyboardInterrupt ends the wait and, where possible, the statement.
`AsyncGateway` and its kin have the same methods as coroutines; cancelling one does what a KeyboardInterrupt does.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from dqlite_py.command import SqlValue
from dqlite_py.model import WriteKey as WriteKey

Row = tuple[SqlValue, ...]
SqlParams = Sequence[SqlValue] | Mapping[str, SqlValue]
Once = bool | WriteKey  # False: no key; True: a key of the gateway's own; or the caller's


class ReadLevel(enum.Enum):
    """How fresh a read must be (docs/read-levels.md)."""

    LINEARIZABLE = "linearizable"  # sees every write acknowledged before the read began, by any node
    LEADER = "leader"  # the same while clocks run at nearly the same rate: the leader's lease, no messages
    SESSION = "session"  # one's own writes, and never an older state than before: at least a log index
    STALE = "stale"  # whatever this node has applied, at once


class Freshness(NamedTuple):
    """What one read asks for.

    `log_index`: of level SESSION, the state it must at least see. `max_staleness_s`: of level STALE, how long ago this
    node may have last been known to be up to date; None: any time.
    """

    level: ReadLevel = ReadLevel.LINEARIZABLE
    log_index: int = 0
    max_staleness_s: float | None = None


LINEARIZABLE: Final = Freshness()


_LEVELS: Final = tuple(level.value for level in ReadLevel)


class ServerInfo(NamedTuple):
    """What the servers behind a gateway are, and what they can do. `read_levels`: those that are kept."""

    name: str = "dqlite-py"
    exactly_once: bool = True
    read_levels: tuple[str, ...] = _LEVELS
    changes: bool = True  # as a stream


OURS: Final = ServerInfo()
NOT_LINEARIZABLE: Final = (
    "a dqlite server's reads are not linearizable: ask for read_level='leader', which is what its leader has, possibly "
    "out of date for as long as an election takes"
)


class StatementResult(NamedTuple):
    """What one statement of a unit did.

    `rowcount`: rows changed by INSERT, UPDATE, DELETE or REPLACE; -1 for any other statement.
    `last_insert_rowid`: SQLite's value after the statement, starting from 0 in each unit.
    `columns`, `rows`: of a statement that returns rows (RETURNING, or a SELECT inside a unit), else None.
    `decltypes`: the columns' declared types, where they are known (in a transaction), else None.
    """

    rowcount: int
    last_insert_rowid: int
    columns: tuple[str, ...] | None = None
    rows: Sequence[Row] | None = None
    decltypes: tuple[str | None, ...] | None = None


class UnitResult(NamedTuple):
    """A committed unit: the log index of its entry (0: nothing was written), and one result per statement.

    `statements` is None when the write was found to have taken effect before and its result was too large to be kept;
    `rowcount` is then still the sum over its statements.
    """

    log_index: int
    statements: list[StatementResult] | None
    rowcount: int = -1


class RowStream(Protocol):
    """The rest of a result. Holds a reader of the node until it is exhausted or closed."""

    def fetch(self) -> list[Row]:
        """The next rows (some hundred, fewer when they are large); [] at the end, which closes the stream."""
        ...

    def close(self) -> None:
        """Idempotent; any thread."""
        ...


class QueryResult(NamedTuple):
    """The result of a read: its first rows, and a stream of the others when there are more.

    `decltypes`: the declared type of each column, None for an expression.
    `log_index`: of the state that was read, for levels SESSION and in transactions; else 0.
    """

    columns: tuple[str, ...]
    decltypes: tuple[str | None, ...]
    rows: list[Row]
    log_index: int = 0
    more: RowStream | None = None


class TransactionLimits(NamedTuple):
    """`idle_s`: the longest pause between two statements; `hold_s`: the longest time from begin to commit. A
    transaction that is over one is rolled back by the node and says so (TransactionEnded)."""

    idle_s: float
    hold_s: float


class Interrupt:
    """Lets another thread end what a connection is running.

    The running call looks at `is_requested` now and then, after `begin`; one that waits sets what is called at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callback: Callable[[], None] | None = None
        self.is_requested = False

    def begin(self) -> None:
        """By the running call: what was requested before it is over."""
        self.is_requested = False

    def request(self) -> None:
        """End the call under way, if there is one. Any thread."""
        self.is_requested = True
        with self._lock:
            if self._callback is not None:
                self._callback()

    def set(self, callback: Callable[[], None] | None) -> None:
        """By the running call: what ends it, or None when it is over."""
        with self._lock:
            self._callback = callback


class Ending(Interrupt):
    """Of one query and its stream: once requested it stays so, also for what has not begun or waits for a thread."""

    def begin(self) -> None:
        return

    def set(self, callback: Callable[[], None] | None) -> None:
        super().set(callback)
        if callback is not None and self.is_requested:
            self.request()


class ReadTransaction(Protocol):
    """One frozen state of the database, on this node; blocks nobody. Ended by the node after TransactionLimits."""

    @property
    def log_index(self) -> int:
        """Log index of the state."""
        ...

    def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult:
        """As Gateway.query, in the frozen state. Raises TransactionEnded when the node has ended it."""
        ...

    def close(self) -> None:
        """Idempotent. Streams of this transaction end with it."""
        ...


class WriteTransaction(Protocol):
    """The one writer of a database, on the leader. Nothing else is written to it until it ends."""

    @property
    def is_open(self) -> bool:
        """False when it was committed, rolled back or, as far as is known here, ended by the node. Costs nothing."""
        ...

    def run(self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None) -> list[StatementResult]:
        """Run statements (`command.encode_statements`; reads, writes and savepoint control) and return their results.

        At a failing statement the ones before it stay done, as in SQLite; `details["statement"]` of its error is its
        position. A failure that ends the transaction (OR ROLLBACK, an interrupted write) leaves `is_open` False.
        Raises TransactionEnded when the node had ended it before: nothing of the transaction happened.
        """
        ...

    def commit(self, timeout_s: float) -> UnitResult:
        """Replicate what was written; returns when it is durable on a majority and applied on the leader.

        `statements` of the result is empty; `log_index` is 0 when nothing was written. Raises IntegrityError, the
        transaction still open, when deferred foreign keys are violated; else the transaction is over, and the error's
        `outcome` says what is true. An outcome that is not known at first is asked for until the time is over.
        """
        ...

    def rollback(self) -> None:
        """Undo everything; nothing to undo is no error. Never raises but for a KeyboardInterrupt."""
        ...


class Gateway(Protocol):
    """A node, as the API layers see it. Every call may raise any class of `errors`."""

    def execute_unit(self, database: str, body: bytes, timeout_s: float, *, once: Once = True) -> UnitResult:
        """Commit statements (`command.encode_statements`) as one unit, all or nothing.

        Returns when the unit is durable on a majority and applied on the leader. Raises the unit's own SQL error
        (nothing of it was applied; `details["statement"]` is the position of the failing statement), or a cluster
        error whose `outcome` says what is now true. `once`: the write is tried again inside, by its key, also when it
        may have happened; an OutcomeUnknown then carries the key (details session, sequence) for `resolve`. With a
        key of the caller's (`new_key`), a repetition anywhere is answered with the first result. A KeyboardInterrupt
        while waiting leaves the outcome unknown to the caller.
        """
        ...

    def new_key(self, database: str) -> WriteKey:
        """A key that was never used, of a session of its own; sends nothing."""
        ...

    def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult:
        """Find out what became of a write: its original result or error, or NeverApplied, and then it never will be."""
        ...

    def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult:
        """Run one reading statement. `params` are checked (rows.sql_params)."""
        ...

    def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> WriteTransaction:
        """Become the database's writer; waiting writers are served in the order of their coming.

        Raises DatabaseLocked (SQLITE_BUSY) when that takes longer than `wait_s`, SnapshotConflict
        (SQLITE_BUSY_SNAPSHOT) when the database is not at log index `base_index` any more.
        """
        ...

    def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> ReadTransaction:
        """Freeze a state that is as fresh as asked for."""
        ...

    def open_database(self, database: str, timeout_s: float) -> None:
        """Return when `database` exists, creating it through the log when it does not."""
        ...

    def is_read(self, sql: str, database: str) -> bool:
        """Tell whether `sql` only reads: it goes to `query`, not into the log. Raises for bad SQL."""
        ...


class AsyncRowStream(Protocol):
    async def fetch(self) -> list[Row]: ...
    async def close(self) -> None: ...


class AsyncReadTransaction(Protocol):
    @property
    def log_index(self) -> int: ...
    async def query(
        self, sql: str, params: SqlParams, timeout_s: float, interrupt: Interrupt | None = None
    ) -> QueryResult: ...
    async def close(self) -> None: ...


class AsyncWriteTransaction(Protocol):
    @property
    def is_open(self) -> bool: ...
    async def run(
        self, body: bytes, timeout_s: float, interrupt: Interrupt | None = None
    ) -> list[StatementResult]: ...
    async def commit(self, timeout_s: float) -> UnitResult: ...
    async def rollback(self) -> None: ...


class AsyncGateway(Protocol):
    """`Gateway` with coroutines, for any event loop (not the node's own). `more` of a result is an AsyncRowStream."""

    async def execute_unit(
        self, database: str, body: bytes, timeout_s: float, *, once: Once = True
    ) -> UnitResult: ...
    def new_key(self, database: str) -> WriteKey: ...
    async def resolve(self, database: str, key: WriteKey, timeout_s: float) -> UnitResult: ...
    async def query(
        self,
        database: str,
        sql: str,
        params: SqlParams,
        freshness: Freshness,
        timeout_s: float,
        interrupt: Interrupt | None = None,
    ) -> QueryResult: ...
    async def begin(
        self, database: str, wait_s: float, limits: TransactionLimits, *, base_index: int | None = None
    ) -> AsyncWriteTransaction: ...
    async def begin_read(
        self, database: str, freshness: Freshness, timeout_s: float, limits: TransactionLimits
    ) -> AsyncReadTransaction: ...
    async def open_database(self, database: str, timeout_s: float) -> None: ...
    async def is_read(self, sql: str, database: str) -> bool: ...
