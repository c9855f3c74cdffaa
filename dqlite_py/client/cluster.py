"""A cluster for a program outside its nodes' processes: connections, streams of changes, its databases. Any thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from dqlite_py import aio, dbapi
from dqlite_py.client.addresses import Target, parse_addresses, parse_target
from dqlite_py.client.attempts import Attempts
from dqlite_py.client.calls import Calls
from dqlite_py.client.change_streams import AsyncRemoteChangeStream, RemoteChangeStream
from dqlite_py.client.gateway import AsyncRemoteGateway, RemoteGateway
from dqlite_py.client.link import Link
from dqlite_py.client.shared import SharedLink, shared_link
from dqlite_py.command import check_database_name
from dqlite_py.config import TlsSettings
from dqlite_py.errors import InterfaceError, MalformedMessage
from dqlite_py.gateway import UnitResult, WriteKey
from dqlite_py.limits import REQUEST_TIMEOUT_MS

T = TypeVar("T")
DEFAULT_TIMEOUT_S = REQUEST_TIMEOUT_MS / 1000


class RemoteCluster:
    """`RemoteCluster("h1:9001,h2:9001")`; a context manager. What it gave goes on working when it is closed.

    tls: TlsSettings, or tls_cert, tls_key and tls_ca. Raises InterfaceError for what cannot be understood; nothing is
    asked of a node before something is called.
    """

    def __init__(self, addresses: str | Iterable[str], **tls: Any) -> None:
        found = as_target(addresses)
        if found.database:
            raise InterfaceError(f"a cluster's addresses name no database: {found.database!r}")
        self._shared: SharedLink | None = open_link(found, tls)
        if tls:
            raise InterfaceError(f"unknown options: {', '.join(sorted(tls))}")

    def connect(self, database: str, **options: Any) -> Any:
        """As dqlite_py.connect."""
        return dbapi.connect(RemoteGateway(self._link()), check_database_name(database), **options)

    def connect_async(self, database: str, **options: Any) -> Any:
        """As dqlite_py.connect_async."""
        return aio.connect(AsyncRemoteGateway(self._link()), check_database_name(database), **options)

    def changes(
        self,
        database: str,
        *,
        after: int | None = None,
        timeout: float | None = None,
        open_timeout: float = DEFAULT_TIMEOUT_S,
    ) -> RemoteChangeStream:
        """Committed changes of rows behind log index `after` (default: from now on), as Node.changes: docs/changes.md.

        It goes on with another node when one is lost. open_timeout: seconds in which some node has to begin to tell.
        """
        stream = RemoteChangeStream(*self._follow(database, after), timeout, open_timeout)
        stream.open()
        return stream

    def changes_async(
        self,
        database: str,
        *,
        after: int | None = None,
        timeout: float | None = None,
        open_timeout: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncRemoteChangeStream:
        """`changes` for an event loop; it begins with the first `anext`."""
        return AsyncRemoteChangeStream(*self._follow(database, after), timeout, open_timeout)

    def databases(self, timeout: float = DEFAULT_TIMEOUT_S) -> dict[str, int]:
        """Names of the databases on the leader, in order, with the log index that each has applied there."""
        return self._run(lambda link: _databases(link, timeout))

    def drop_database(self, database: str, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Remove a database from every member, through the log; see Node.drop_database.

        Raises OutcomeUnknown when it was asked for and no answer came: asking again could drop what was made since.
        """
        name = check_database_name(database)
        self._run(lambda link: _drop(link, name, timeout))

    def resolve(self, database: str, key: WriteKey, timeout: float = DEFAULT_TIMEOUT_S) -> UnitResult:
        """Find out what became of a write or a COMMIT; see gateway.Gateway.resolve."""
        return RemoteGateway(self._link()).resolve(check_database_name(database), key, timeout)

    def close(self) -> None:
        """Idempotent."""
        self._shared = None

    def __enter__(self) -> RemoteCluster:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _link(self) -> SharedLink:
        if self._shared is None:
            raise InterfaceError("this is closed")
        return self._shared

    def _run(self, make: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
        return Calls(self._link()).run(make)

    def _follow(self, database: str, after: int | None) -> tuple[SharedLink, str, int | None]:
        if after is not None and (type(after) is not int or not 0 <= after < 2**63):
            raise InterfaceError(f"after is a log index, not {after!r:.40}")
        return self._link(), check_database_name(database), after


def as_target(target: str | Iterable[str]) -> Target:
    return parse_target(target) if isinstance(target, str) else Target(parse_addresses(target))


def open_link(target: Target, options: dict[str, Any]) -> SharedLink:
    """The link to these addresses; takes what is about TLS out of `options`."""
    tls = options.pop("tls", None)
    files = {part: options.pop(f"tls_{part}", None) for part in ("cert", "key", "ca")}
    given = {f"tls_{part}": path for part, path in files.items() if path is not None}
    if given and (tls is not None or len(given) < len(files)):
        raise InterfaceError(
            f"TLS is given as tls=, or as tls_cert, tls_key and tls_ca, not {', '.join(given)}"
        )
    if given:
        tls = TlsSettings(**{part: str(path) for part, path in files.items()})
    if tls is not None and not isinstance(tls, TlsSettings):
        raise InterfaceError(f"tls must be TlsSettings, not {type(tls).__name__}")
    try:
        return shared_link(target.addresses, tls)
    except OSError as error:  # ssl.SSLError, too: not PEM, or a key of another certificate
        raise InterfaceError(f"the TLS files cannot be used: {error}") from None


async def _databases(link: Link, timeout_s: float) -> dict[str, int]:
    return await Attempts(link, timeout_s).ask("status", {}, _indexes)


async def _drop(link: Link, database: str, timeout_s: float) -> None:
    attempts = Attempts(link, timeout_s, writes=True, repeats=False)
    await attempts.ask("sql.drop", {"database": database}, lambda _: None)


def _indexes(status: Any) -> dict[str, int]:
    databases = status.get("databases") if isinstance(status, dict) else None
    if not isinstance(databases, dict):
        raise MalformedMessage("the node's status has no databases", what="status")
    try:
        return {str(name): int(databases[name]["applied_index"]) for name in sorted(databases)}
    except (KeyError, TypeError, ValueError):
        raise MalformedMessage("the node's status has no applied indexes", what="status") from None
