"""What ends the query at work: also before anything of it runs, and between two of its steps."""

from __future__ import annotations

from collections.abc import Callable

from dqlite_py.gateway import Interrupt


class QueryInterrupt(Interrupt):
    """Of one connection. Once requested, it ends whatever the query comes to next, until `renew`."""

    def begin(self) -> None:
        """A step begins: what was requested before is meant for it, too."""

    def renew(self) -> None:
        """Another request is at work."""
        self.is_requested = False

    def set(self, callback: Callable[[], None] | None) -> None:
        super().set(callback)
        if callback is not None and self.is_requested:
            callback()
