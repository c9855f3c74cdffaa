"""An event loop on a thread of its own, for a program's calls to one cluster.

Ends by itself with the process, without a warning. A forked child has the object and not the thread: it must make a
new one (`is_ours`), and neither closes nor uses what the parent's thread works with.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from dqlite_py.errors import Error, InterfaceError

T = TypeVar("T")
R = TypeVar("R")
CLOSED_DURING: Final = "the connection to the cluster was closed during the call"
_END_WAIT_S: Final = 3.0
_running: weakref.WeakSet[Background[Any]] = weakref.WeakSet()


class Background(Generic[R]):
    """`open` is awaited on the loop and gives what the loop's tasks work with; `close` ends that."""

    def __init__(
        self,
        open: Callable[[], Coroutine[Any, Any, R]],
        close: Callable[[R], Coroutine[Any, Any, None]],
        name: str,
        descriptors: Callable[[R], list[int]] = lambda _: [],
    ) -> None:
        """`descriptors`: what a forked child has to let go of."""
        self._pid = os.getpid()
        self._open, self._close = open, close
        self._descriptors = descriptors
        self._lock = threading.RLock()  # finalizers come here, too
        self._ended = False
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self.resource: R
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._main, args=(started,), name=name, daemon=True)
        self._thread.start()
        started.result()
        _running.add(self)

    @property
    def is_ours(self) -> bool:
        """Whether this process started the thread."""
        return self._pid == os.getpid()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run it on the loop; cancelling the future cancels it. Raises InterfaceError when the thread is over."""
        if self.is_ours:
            with self._lock:  # BEFORE the stop is asked for, or not at all
                if not self._ended:
                    return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise InterfaceError(
            "the connection to the cluster is closed"
            if self.is_ours
            else "this was opened before a fork, by the parent process: open it anew"
        )

    def soon(self, function: Callable[[], object]) -> None:
        """Run it on the loop; not in another process, and not when the thread is over."""
        if self.is_ours:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)

    def run(self, work: Coroutine[Any, Any, T], ended: type[Error] = InterfaceError) -> T:
        """Run it on the loop and wait; a KeyboardInterrupt cancels it. Raises InterfaceError on the loop's own thread,
        where the garbage collector may end what is left behind, and nobody can wait; `ended` when the thread ends
        while the work is under way."""
        if threading.current_thread() is self._thread:
            work.close()
            raise InterfaceError("the client's own thread cannot wait for itself")
        future = self.submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ended(CLOSED_DURING) from None
        except BaseException:
            future.cancel()
            raise

    def end(self, *, wait: bool = True) -> None:
        """Cancel what runs and end the thread. Idempotent; any thread."""
        if not self.is_ours:
            return
        with self._lock:
            if not self._ended:
                self._ended = True
                self._loop.call_soon_threadsafe(self._stop.set)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(_END_WAIT_S)

    def _main(self, started: concurrent.futures.Future[None]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: concurrent.futures.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.resource = await self._open()
        started.set_result(None)
        try:
            await self._stop.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        finally:
            await self._close(self.resource)

    def leave_to_parent(self) -> None:
        """In a forked child: nothing of the loop may ever be closed here, or the parent's would suffer. The sockets are
        let go, or they would stay open while the child lives; their numbers stay taken, as their owners know them."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._loop))
        numbers = self._descriptors(self.resource)
        if numbers:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            for number in numbers:
                os.dup2(null, number, inheritable=False)
            os.close(null)


def _end_all() -> None:
    for background in list(_running):
        background.end(wait=False)
    for background in list(_running):
        background.end()


def _forked() -> None:
    for background in list(_running):
        background.leave_to_parent()
    _running.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forked)
