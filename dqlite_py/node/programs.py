"""The methods that a node has for programs, which are no members, and who hears when a program is gone. Loop thread.

Filled by the services; asked by server/extended/ for each call. Nodes reach most of the same methods by raft/rpc.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol


class Caller(Protocol):
    """The connection of a program, or of a node; compared by identity."""

    @property
    def is_open(self) -> bool: ...


class CallContext(Protocol):
    """Who asks, and how to hand over the pieces of a stream."""

    @property
    def connection(self) -> Caller: ...

    async def more(self, value: Any) -> None:
        """One piece, before the result. Waits until the caller takes it; cancelled when nobody does any more."""
        ...


Handler = Callable[[Any, Any], Awaitable[Any]]


class Method(NamedTuple):
    """`ends_when_cancelled`: else it is left to finish when its answer is not wanted any more."""

    handler: Handler
    ends_when_cancelled: bool


class ProgramMethods:
    """By name. There are none while the node is starting."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self._open_method: Callable[[str], Handler | None] = lambda _name: None
        self._watchers: list[Callable[[Caller], None]] = []

    def serve_also(self, open_method: Callable[[str], Handler | None]) -> None:
        """What strangers may ask of the transport is served here, too."""
        self._open_method = open_method

    def add(self, handlers: Mapping[str, Handler], *, ends_when_cancelled: bool = False) -> None:
        for name, handler in handlers.items():
            self._methods[name] = Method(handler, ends_when_cancelled)

    def get(self, name: str) -> Method | None:
        found = self._methods.get(name)
        if found is None:
            handler = self._open_method(name)
            return None if handler is None else Method(handler, False)
        return found

    def watch_callers(self, on_gone: Callable[[Caller], None]) -> None:
        """Hear of every connection by which nothing is asked any more."""
        self._watchers.append(on_gone)

    def caller_gone(self, caller: Caller) -> None:
        for watcher in self._watchers:
            watcher(caller)
