"""How calls get from a program's thread or event loop to the client's loop thread and back; made anew after a fork."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from dqlite_py.client.background import CLOSED_DURING, Background
from dqlite_py.errors import Error, InterfaceError

T = TypeVar("T")
R = TypeVar("R")


class PerProcess(Generic[R]):
    """The thread that those who hold this share; it ends when nobody does. A forked child starts its own at its first
    call. Any thread."""

    def __init__(self, start: Callable[[], Background[R]]) -> None:
        """`start` must not hold this object, or the thread would never end."""
        self._start = start
        self._opening = threading.Lock()
        self._background = self._started()

    def _started(self) -> Background[R]:
        background = self._start()
        weakref.finalize(self, background.end, wait=False)
        return background

    @property
    def background(self) -> Background[R]:
        """This process's."""
        if not self._background.is_ours:
            with self._opening:
                if not self._background.is_ours:
                    self._background = self._started()
        return self._background

    def end(self) -> None:
        """End the thread of this process, if it has one. Idempotent; any thread but that one waits for it."""
        self._background.end()


class Calls(Generic[R]):
    """Belongs to the process that made it."""

    def __init__(self, shared: PerProcess[R]) -> None:
        self._shared = shared  # it lives as long as somebody can call
        self.background = shared.background

    def soon(self, function: Callable[[], object]) -> None:
        """Run it on the loop's thread; not in another process, and not when that has ended."""
        self.background.soon(function)

    def run(self, make: Callable[[R], Coroutine[Any, Any, T]], ended: type[Error] = InterfaceError) -> T:
        """Block until it is done; a KeyboardInterrupt cancels it. Raises `ended` when the thread ends meanwhile."""
        return self.background.run(make(self.background.resource), ended)

    async def wait(
        self, make: Callable[[R], Coroutine[Any, Any, T]], ended: type[Error] = InterfaceError
    ) -> T:
        """The same for a coroutine on any event loop."""
        future = self.background.submit(make(self.background.resource))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise ended(CLOSED_DURING) from None
            raise
