"""What connections of both kinds share: options, settings, the state of their transaction, the session token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dqlite_py import errors
from dqlite_py.command import check_database_name
from dqlite_py.dbapi.core import Core
from dqlite_py.dbapi.guard import Guard
from dqlite_py.dbapi.settings import (
    BUSY_TIMEOUT_S,
    HOLD_LIMIT_S,
    IDLE_LIMIT_S,
    LEGACY_TRANSACTION_CONTROL,
    TIMEOUT_S,
    Settings,
    check_autocommit,
    check_isolation_level,
    check_level,
    check_seconds,
    check_staleness,
    decode_token,
    encode_token,
)
from dqlite_py.dbapi.unsupported import Unsupported
from dqlite_py.errors import InterfaceError, NotSupportedError, ProgrammingError
from dqlite_py.gateway import (
    NOT_LINEARIZABLE,
    OURS,
    AsyncGateway,
    Freshness,
    Gateway,
    ReadLevel,
    ServerInfo,
    TransactionLimits,
    WriteKey,
)


class BaseConnection(Unsupported):
    """One user of one database. Closing it leaves the node and the other connections alone.

    Options, all by keyword:
    timeout: seconds that one statement, or a commit, may take (10). busy_timeout: seconds to wait to become the
    database's writer (5). idle_limit, hold_limit: seconds after which the node ends a transaction that nobody uses
    (10), or that goes on (60). isolation_level ("" as sqlite3; None: each statement commits), autocommit: as sqlite3.
    detect_types, cached_statements (accepted, without effect), check_same_thread (True): as sqlite3. read_level,
    max_staleness (seconds): how fresh reads are. exactly_once (True): writes outside transactions are tried again by
    the cluster where that is safe, and an unknown outcome can be resolved. row_factory, text_factory: attributes, too.
    Raises InterfaceError (or sqlite3's TypeError, ValueError) for a bad option.
    """

    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    DataError = errors.DataError
    OperationalError = errors.OperationalError
    IntegrityError = errors.IntegrityError
    InternalError = errors.InternalError
    ProgrammingError = errors.ProgrammingError
    NotSupportedError = errors.NotSupportedError

    _core: Core
    _guard: Guard
    _is_sync = False
    _is_closed = True  # until __init__ has run

    def __init__(
        self,
        gateway: Gateway | AsyncGateway,
        database: str,
        *,
        timeout: float = TIMEOUT_S,
        busy_timeout: float = BUSY_TIMEOUT_S,
        idle_limit: float = IDLE_LIMIT_S,
        hold_limit: float = HOLD_LIMIT_S,
        detect_types: int = 0,
        isolation_level: str | None = "",
        autocommit: bool | int = LEGACY_TRANSACTION_CONTROL,
        check_same_thread: bool = True,
        cached_statements: int = 128,
        uri: bool = False,
        read_level: ReadLevel | str = ReadLevel.LINEARIZABLE,
        max_staleness: float | None = None,
        exactly_once: bool = True,
        row_factory: Callable[[Any, Any], Any] | None = None,
        text_factory: Any = str,
    ) -> None:
        """Bind to a database that exists already; `connect` creates it first."""
        if uri:
            raise NotSupportedError(
                "uri=True is not supported: a database has a name in its cluster, and no file; "
                "set read_level, timeout and the others as options"
            )
        level = check_level(read_level)
        staleness = check_staleness(max_staleness)
        if staleness is not None and level is not ReadLevel.STALE:
            raise InterfaceError("max_staleness is for read_level='stale'")
        settings = Settings(
            timeout_s=check_seconds("timeout", timeout),
            busy_timeout_s=check_seconds("busy_timeout", busy_timeout, zero=True),
            limits=TransactionLimits(
                check_seconds("idle_limit", idle_limit), check_seconds("hold_limit", hold_limit)
            ),
            read_level=level,
            max_staleness_s=staleness,
            once=bool(exactly_once),
            isolation_level=check_isolation_level(isolation_level),
            autocommit=check_autocommit(autocommit),
            detect_types=int(detect_types),
            freshness=Freshness(),
        )
        settings.refresh()
        if not isinstance(cached_statements, int):
            raise TypeError(f"cached_statements must be int, not {type(cached_statements).__name__}")
        self.row_factory = row_factory
        self._core = Core(gateway, check_database_name(database), settings)
        self._core.text_factory = text_factory
        self._guard = Guard(is_shared=not check_same_thread)
        self._is_closed = False

    # -- settings -------------------------------------------------------------------------------------

    @property
    def database(self) -> str:
        return self._known().database

    @property
    def timeout(self) -> float:
        """Seconds that one statement, or a commit, may take."""
        return self._known().settings.timeout_s

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._known().settings.timeout_s = check_seconds("timeout", seconds)

    @property
    def busy_timeout(self) -> float:
        """Seconds to wait to become the database's writer; then DatabaseLocked."""
        return self._known().settings.busy_timeout_s

    @busy_timeout.setter
    def busy_timeout(self, seconds: float) -> None:
        self._known().settings.busy_timeout_s = check_seconds("busy_timeout", seconds, zero=True)

    @property
    def read_level(self) -> ReadLevel:
        """How fresh reads are. Setting what the servers do not have raises NotSupportedError."""
        level = self._known().settings.read_level
        return level if level is not ReadLevel.LINEARIZABLE or self._has_linearizable else ReadLevel.LEADER

    @read_level.setter
    def read_level(self, level: ReadLevel | str) -> None:
        settings = self._known().settings
        settings.read_level = self._named_level(level)
        settings.refresh()

    @property
    def _has_linearizable(self) -> bool:
        return ReadLevel.LINEARIZABLE.value in self.server.read_levels

    def _named_level(self, level: ReadLevel | str) -> ReadLevel:
        """`level`; raises InterfaceError, and NotSupportedError where the servers would answer with less."""
        found = check_level(level)
        if found is ReadLevel.LINEARIZABLE and not self._has_linearizable:
            raise NotSupportedError(NOT_LINEARIZABLE)
        return found

    @property
    def max_staleness(self) -> float | None:
        """Of level "stale": seconds since this node was last known to be up to date, at most; None: any."""
        return self._known().settings.max_staleness_s

    @max_staleness.setter
    def max_staleness(self, seconds: float | None) -> None:
        settings = self._known().settings
        settings.max_staleness_s = check_staleness(seconds)
        settings.refresh()

    @property
    def session_token(self) -> str:
        """What this connection has seen of the database, for reads of level "session" anywhere in the cluster.

        Such a read waits until its node has at least this state. Writes of this connection, its reads of level
        "session" and its transactions move the token on. Hand it to another process, which sets it on its connection
        to the same database.
        """
        return encode_token(self._known().token)

    @session_token.setter
    def session_token(self, token: str) -> None:
        self._known().saw(decode_token(token))

    def new_key(self) -> WriteKey:
        """A key for execute_atomic(…, key=…) that was never used. Keep it where it survives, then write."""
        self._ready()
        key: WriteKey = self._core.gateway.new_key(self._core.database)
        return key

    @property
    def text_factory(self) -> Any:
        """Makes a text value of its UTF-8 bytes; `str` by default."""
        return self._known().text_factory

    @text_factory.setter
    def text_factory(self, factory: Any) -> None:
        self._known().text_factory = factory

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, or was ended by the node and waits for rollback()."""
        self._ready()
        return self._core.transaction is not None

    @property
    def total_changes(self) -> int:
        """Rows that this connection's statements have changed (without those of triggers)."""
        self._ready()
        return self._core.total_changes

    @property
    def isolation_level(self) -> str | None:
        """As sqlite3: "" or DEFERRED, IMMEDIATE, EXCLUSIVE: how a transaction begins by itself; None: it does not."""
        self._ready()
        return self._core.settings.isolation_level

    @property
    def autocommit(self) -> bool | int:
        """As sqlite3 of Python 3.12: True, False, or LEGACY_TRANSACTION_CONTROL: by isolation_level."""
        self._ready()
        return self._core.settings.autocommit

    @property
    def server(self) -> ServerInfo:
        """What the servers are, and what they can do: less when they are of dqlite itself (docs/remote-programs.md)."""
        info: ServerInfo = getattr(self._known().gateway, "server", OURS)
        return info

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    # -- of any thread --------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End the statement that runs, if there is one: its caller gets an OperationalError. Any thread."""
        self._known()
        self._guard.check_process()
        self._check_open()
        self._core.interrupt.request()

    def set_trace_callback(self, trace_callback: Callable[[str], Any] | None, /) -> None:
        """Call `trace_callback(sql)` before each statement, those of implicit transactions too; None ends it.

        Values are not filled in. What it raises is ignored.
        """
        self._ready()
        self._core.trace = trace_callback

    def _known(self) -> Core:
        core: Core | None = getattr(self, "_core", None)
        if core is None:
            raise ProgrammingError("Base Connection.__init__ not called.")
        return core

    def _ready(self) -> None:
        """Raises unless this thread may use the connection now."""
        self._known()
        self._guard.check()
        self._check_open()

    def _timeout(self, seconds: float | None) -> float:
        self._ready()
        return self._core.settings.timeout_s if seconds is None else check_seconds("timeout", seconds)

    def _check_open(self) -> None:
        self._known()
        if self._is_closed:
            raise ProgrammingError("Cannot operate on a closed database.")

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"read_level={self.read_level.value}"
        return f"<dqlite_py {type(self).__name__} to {self.database!r}, {state}>"
