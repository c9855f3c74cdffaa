"""One link per process and cluster, shared by all its connections; opened with the first, closed with the last.

After a fork, the child opens its own at the next call. Any thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence

from dqlite_py.client.background import Background
from dqlite_py.client.calls import PerProcess
from dqlite_py.client.link import Link
from dqlite_py.config import TlsSettings
from dqlite_py.model import Address

_lock = threading.Lock()
_shared: weakref.WeakValueDictionary[tuple[frozenset[Address], TlsSettings | None], SharedLink] = (
    weakref.WeakValueDictionary()
)


class SharedLink(PerProcess[Link]):
    """Whoever holds one may use the link; it is closed when nobody does."""

    def __init__(self, addresses: Sequence[Address], tls: TlsSettings | None) -> None:
        self.addresses = nodes = tuple(addresses)
        self.tls = tls

        async def open() -> Link:
            return Link(nodes, tls)

        super().__init__(lambda: Background(open, Link.close, "dqlite-client", Link.descriptors))


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
