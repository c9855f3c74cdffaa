"""A cluster from outside its nodes' processes: `connect("h1:9001,h2:9001/app")` gives the usual connection.

Any of the nodes' addresses will do: the others, and who leads, are found out. All connections of a process to a cluster
share one thread and its sockets, which come with the first connection and go with the last. After a fork the child
connects anew. docs/remote-programs.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dqlite_py import aio, dbapi
from dqlite_py.client.cluster import RemoteCluster, as_target, open_link
from dqlite_py.client.gateway import AsyncRemoteGateway, RemoteGateway
from dqlite_py.client.shared import SharedLink
from dqlite_py.client.stock.choosing import AsyncChoosingGateway, Choice, ChoosingGateway
from dqlite_py.command import check_database_name
from dqlite_py.errors import InterfaceError

__all__ = ["AsyncRemoteGateway", "RemoteCluster", "RemoteGateway", "connect", "connect_async"]


def connect(target: str | Iterable[str], database: str | None = None, **options: Any) -> Any:
    """A PEP 249 connection to a database of a cluster, created when it does not exist.

    target: "host:port[,host:port …][/database]", or addresses; `database` where the target names none.
    tls: TlsSettings, or tls_cert, tls_key and tls_ca: any certificate of the cluster's authority. The other options are
    those of Node.connect. Raises InterfaceError for what cannot be understood, NoLeader when no node answers within the
    timeout, WrongCluster for the nodes of several clusters.
    """
    link, name = _open(target, database, options)
    choice = Choice.of(link.addresses, link.tls, options)
    return dbapi.connect(ChoosingGateway(lambda: RemoteGateway(link), choice), name, **options)


def connect_async(target: str | Iterable[str], database: str | None = None, **options: Any) -> Any:
    """As `connect`, for asyncio: to be awaited, or to be entered by `async with` (dqlite_py.aio.connect)."""
    link, name = _open(target, database, options)
    choice = Choice.of(link.addresses, link.tls, options)
    return aio.connect(AsyncChoosingGateway(lambda: AsyncRemoteGateway(link), choice), name, **options)


def _open(
    target: str | Iterable[str], database: str | None, options: dict[str, Any]
) -> tuple[SharedLink, str]:
    """The link and the database's name; takes what is about TLS out of `options`."""
    found = as_target(target)
    name = check_database_name(database if database is not None else found.database)
    if found.database not in ("", name):
        raise InterfaceError(f"two databases are named: {found.database!r} and {name!r}")
    return open_link(found, options), name
