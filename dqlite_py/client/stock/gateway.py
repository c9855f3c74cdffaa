"""The gateways to stock dqlite servers: what is asked of them, for blocking threads and for coroutines of any event
loop. The connections of a gateway are its own, and end with it.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Final

from dqlite_py.client.background import Background
from dqlite_py.client.calls import PerProcess
from dqlite_py.client.gateways import AsyncioGateway, BlockingGateway, Requests
from dqlite_py.client.stock.work import Stock
from dqlite_py.config import TlsSettings
from dqlite_py.gateway import ServerInfo
from dqlite_py.model import Address
from dqlite_py.tlscontexts import client_context

STOCK: Final = ServerInfo("dqlite", exactly_once=False, read_levels=("stale",), changes=False)
_REQUESTS: Final[Requests[Stock]] = Requests(
    new_key=Stock.new_key,
    execute_unit=Stock.execute_unit,
    resolve=Stock.resolve,
    query=Stock.query,
    begin=Stock.begin,
    begin_read=Stock.begin_read,
    open_database=Stock.open_database,
    is_read=Stock.is_read,
)


class StockGateway(BlockingGateway[Stock]):
    """Implements gateway.Gateway.

    `degrades`: reads of level LINEARIZABLE, which these servers do not have, are answered as LEADER; else refused.
    Raises ssl.SSLError or OSError for unusable TLS files.
    """

    server = STOCK

    def __init__(
        self, addresses: Sequence[Address], tls: TlsSettings | None = None, *, degrades: bool = False
    ) -> None:
        self.addresses = tuple(addresses)
        super().__init__(_link(self.addresses, tls, degrades), _REQUESTS)

    def close(self) -> None:
        """End the thread and its connections; done by itself when nobody holds the gateway any more. Idempotent."""
        self._shared.end()


class AsyncStockGateway(AsyncioGateway[Stock]):
    """Implements gateway.AsyncGateway; as StockGateway."""

    server = STOCK

    def __init__(
        self, addresses: Sequence[Address], tls: TlsSettings | None = None, *, degrades: bool = False
    ) -> None:
        self.addresses = tuple(addresses)
        super().__init__(_link(self.addresses, tls, degrades), _REQUESTS)

    def close(self) -> None:
        """As StockGateway.close."""
        self._shared.end()


def _link(addresses: tuple[Address, ...], tls: TlsSettings | None, degrades: bool) -> PerProcess[Stock]:
    context: ssl.SSLContext | None = None if tls is None else client_context(tls)

    async def open() -> Stock:
        return Stock(addresses, context, degrades=degrades)

    return PerProcess(lambda: Background(open, Stock.close, "dqlite-stock-client", Stock.descriptors))
