"""The remote client where the servers are stock dqlite, which knows nothing of our extension.

Writes are not exactly once (an unknown outcome stays unknown), reads are what the leader has, there are no changes as a
stream. Whoever finds out what the servers are makes one of these: docs/remote-programs.md.
"""

from __future__ import annotations

from dqlite_py.client.stock.gateway import STOCK, AsyncStockGateway, StockGateway

__all__ = ["STOCK", "AsyncStockGateway", "StockGateway"]
