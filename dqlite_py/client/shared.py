"""One link per process and cluster, shared by all its connections; opened with the first, closed with the last.

After a fork, the child opens its own at the next call. Any thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from dqlite_py.client.background import Background
from dqlite_py.client.link import Link
from dqlite_py.config import TlsSettings
from dqlite_py.errors import InterfaceError
from dqlite_py.model import Address

T = TypeVar("T")
_lock = threading.Lock()
_shared: weakref.WeakValueDictionary[tuple[frozenset[Address], TlsSettings | None], SharedLink] = (
    weakref.WeakValueDictionary()
)


class SharedLink:
    """Whoever holds one may use the link; it is closed when nobody does."""

    def __init__(self, addresses: Sequence[Address], tls: TlsSettings | None) -> None:
        self.addresses = tuple(addresses)
        self.tls = tls
        self._opening = threading.Lock()
        self._background = self._open()

    def _open(self) -> Background[Link]:
        addresses, tls = self.addresses, self.tls

        async def open() -> Link:
            return Link(addresses, tls)

        background = Background(open, Link.close, "dqlite-client", Link.descriptors)
        weakref.finalize(self, background.end, wait=False)
        return background

    @property
    def background(self) -> Background[Link]:
        """This process's."""
        if not self._background.is_ours:
            with self._opening:
                if not self._background.is_ours:
                    self._background = self._open()
        return self._background


class Calls:
    """How calls get from a user's thread or event loop to the link's and back. Belongs to the process that made it."""

    def __init__(self, shared: SharedLink) -> None:
        self._shared = shared  # it lives as long as somebody can call
        self.background = shared.background

    def soon(self, function: Callable[[], object]) -> None:
        """Run it on the link's thread; not in another process, and not when the link is closed."""
        if self.background.is_ours:
            self.background.resource.soon(function)

    def run(self, make: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
        """Block until it is done; a KeyboardInterrupt cancels it."""
        return self.background.run(make(self.background.resource))

    async def wait(self, make: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
        """The same for a coroutine on any event loop."""
        future = self.background.submit(make(self.background.resource))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise InterfaceError("the connection to the cluster was closed during the call") from None
            raise


def shared_link(addresses: Sequence[Address], tls: TlsSettings | None) -> SharedLink:
    """The link for these addresses, in whatever order they come. Raises OSError for unusable TLS files."""
    key = (frozenset(addresses), tls)
    with _lock:
        found = _shared.get(key)
        if found is None:
            found = _shared[key] = SharedLink(addresses, tls)
        return found


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)
