"""Nodes of ours, or stock servers? Found out when a connection opens its database; the gateway is then one of these.

What a program did not ask for by name, and stock servers do not have, is left out with a DqliteServerWarning; what it
asked for is refused. Any thread.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from dqlite_py.client.stock.gateway import AsyncStockGateway, StockGateway
from dqlite_py.client.stock.work import no_keys
from dqlite_py.config import TlsSettings
from dqlite_py.errors import NoLeader, NotSupportedError
from dqlite_py.gateway import NOT_LINEARIZABLE, ReadLevel
from dqlite_py.model import Address

T = TypeVar("T", StockGateway, AsyncStockGateway)
_AT_LEAST_S: Final = 1.0
_lock = threading.Lock()
_shared: weakref.WeakValueDictionary[tuple[type, Choice], Any] = weakref.WeakValueDictionary()


class StockServers(NoLeader):
    """The servers that answer are of dqlite itself: nothing was sent that is for nodes of ours."""


class DqliteServerWarning(UserWarning):
    """The servers are of dqlite itself, which promises less."""


class Choice(NamedTuple):
    """What a program named. `has_level`: a read level, `has_linearizable` that one; `has_once`: writes exactly once."""

    addresses: frozenset[Address]
    tls: TlsSettings | None
    has_level: bool
    has_once: bool
    has_linearizable: bool = False

    @classmethod
    def of(cls, addresses: Iterable[Address], tls: TlsSettings | None, options: Mapping[str, Any]) -> Choice:
        """`options`: those of a connection."""
        level = options.get("read_level")
        return cls(
            frozenset(addresses),
            tls,
            "read_level" in options,
            options.get("exactly_once") is True,
            level in (ReadLevel.LINEARIZABLE, ReadLevel.LINEARIZABLE.value),
        )

    def stock(self, kind: type[T]) -> T:
        """The gateway that all connections with this choice share. Raises NotSupportedError where it cannot do."""
        if self.has_once:
            raise no_keys()
        if self.has_linearizable:
            raise NotSupportedError(NOT_LINEARIZABLE)
        if not self.has_level:
            warnings.warn(
                f"{', '.join(sorted(self.addresses))}: servers of dqlite itself. Reads are what their leader has, "
                "not linearizable (read_level='leader' says that you know), writes are not exactly once",
                DqliteServerWarning,
                stacklevel=4,
            )
        with _lock:
            found = _shared.get((kind, self))
            if found is None:
                found = kind(sorted(self.addresses), self.tls, degrades=not self.has_level)
                _shared[kind, self] = found
            made: T = found
            return made


class _Choosing:
    """`remote` makes the gateway for nodes of ours, which may say StockServers. Everything but `open_database` is the
    chosen gateway's."""

    def __init__(self, remote: Callable[[], Any], choice: Choice) -> None:
        self._choice = choice
        self._chosen = remote()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chosen, name)


class ChoosingGateway(_Choosing):
    """Implements gateway.Gateway."""

    def open_database(self, database: str, timeout_s: float) -> None:
        begun = time.monotonic()
        try:
            self._chosen.open_database(database, timeout_s)
        except StockServers:
            self._chosen = self._choice.stock(StockGateway)
            self._chosen.open_database(database, _left_s(begun, timeout_s))


class AsyncChoosingGateway(_Choosing):
    """Implements gateway.AsyncGateway."""

    async def open_database(self, database: str, timeout_s: float) -> None:
        begun = time.monotonic()
        try:
            await self._chosen.open_database(database, timeout_s)
        except StockServers:
            self._chosen = self._choice.stock(AsyncStockGateway)
            await self._chosen.open_database(database, _left_s(begun, timeout_s))


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def _left_s(begun: float, timeout_s: float) -> float:
    """Servers that were found out at the end of the time get a little more."""
    return max(_AT_LEAST_S, timeout_s - (time.monotonic() - begun))
