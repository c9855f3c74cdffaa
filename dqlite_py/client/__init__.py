"""A cluster from outside its nodes' processes: `connect("h1:9001,h2:9001/app")` gives the usual connection.

Any of the nodes' addresses will do: the others, and who leads, are found out. All connections of a process to a cluster
share one thread and its sockets, which come with the first connection and go with the last. After a fork the child
connects anew. docs/remote-programs.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dqlite_py import aio, dbapi
from dqlite_py.client.addresses import Target, parse_addresses, parse_target
from dqlite_py.client.gateway import AsyncRemoteGateway, RemoteGateway
from dqlite_py.client.shared import SharedLink, shared_link
from dqlite_py.command import check_database_name
from dqlite_py.config import TlsSettings
from dqlite_py.errors import InterfaceError

__all__ = ["AsyncRemoteGateway", "RemoteGateway", "connect", "connect_async"]


def connect(target: str | Iterable[str], database: str | None = None, **options: Any) -> Any:
    """A PEP 249 connection to a database of a cluster, created when it does not exist.

    target: "host:port[,host:port …][/database]", or addresses; `database` where the target names none.
    tls: TlsSettings, or tls_cert, tls_key and tls_ca: any certificate of the cluster's authority. The other options are
    those of Node.connect. Raises InterfaceError for what cannot be understood, NoLeader when no node answers within the
    timeout, WrongCluster for the nodes of several clusters.
    """
    link, name = _open(target, database, options)
    return dbapi.connect(RemoteGateway(link), name, **options)


def connect_async(target: str | Iterable[str], database: str | None = None, **options: Any) -> Any:
    """As `connect`, for asyncio: to be awaited, or to be entered by `async with` (dqlite_py.aio.connect)."""
    link, name = _open(target, database, options)
    return aio.connect(AsyncRemoteGateway(link), name, **options)


def _open(
    target: str | Iterable[str], database: str | None, options: dict[str, Any]
) -> tuple[SharedLink, str]:
    """The link and the database's name; takes what is about TLS out of `options`."""
    found = parse_target(target) if isinstance(target, str) else Target(parse_addresses(target))
    name = check_database_name(database if database is not None else found.database)
    if found.database not in ("", name):
        raise InterfaceError(f"two databases are named: {found.database!r} and {name!r}")
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
        return shared_link(found.addresses, tls), name
    except OSError as error:  # ssl.SSLError, too: not PEM, or a key of another certificate
        raise InterfaceError(f"the TLS files cannot be used: {error}") from None
