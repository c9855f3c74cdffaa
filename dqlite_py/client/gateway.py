"""The gateways to nodes of ours: what is asked of them, for blocking threads and for coroutines of any event loop."""

from __future__ import annotations

from typing import Final

from dqlite_py.client import reads, transactions, writes
from dqlite_py.client.gateways import AsyncioGateway, BlockingGateway, Requests
from dqlite_py.client.link import Link
from dqlite_py.client.shared import SharedLink

_REQUESTS: Final[Requests[Link]] = Requests(
    new_key=lambda link, _database: link.sessions.new(),
    execute_unit=writes.execute,
    resolve=writes.resolve,
    query=reads.query,
    begin=transactions.begin,
    begin_read=reads.begin_read,
    open_database=reads.open_database,
    is_read=reads.is_read,
)


class RemoteGateway(BlockingGateway[Link]):
    """Implements gateway.Gateway."""

    def __init__(self, shared: SharedLink) -> None:
        super().__init__(shared, _REQUESTS)


class AsyncRemoteGateway(AsyncioGateway[Link]):
    """Implements gateway.AsyncGateway."""

    def __init__(self, shared: SharedLink) -> None:
        super().__init__(shared, _REQUESTS)
