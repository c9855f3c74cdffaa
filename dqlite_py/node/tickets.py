"""Hand-over between user threads and the loop: one lock per call, one loop wake-up for many calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from dqlite_py.errors import Error, NodeStopped, OutcomeUnknown


class Ticket:
    """One blocking call of a user thread. `resolve` runs on the loop (the first one counts), `wait` on the caller's."""

    __slots__ = ("_lock", "abandoned", "done", "error", "value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.done = False
        self.abandoned = False
        self.value: Any = None
        self.error: Error | None = None

    def resolve(self, value: Any, error: Error | None) -> None:
        if not self.done:
            self.value, self.error, self.done = value, error, True
            self._lock.release()

    def wait(self, timeout_s: float, on_timeout: Callable[[], Error]) -> Any:
        """Block until resolved; raises its error, or `on_timeout()` after the time (also sets `abandoned`).

        A KeyboardInterrupt leaves the ticket abandoned: the call may still take effect.
        """
        try:
            ready = self._lock.acquire(timeout=max(0.0, timeout_s))
        except BaseException:
            self.abandoned = True
            raise
        if not ready:
            self.abandoned = True
            raise on_timeout()
        if self.error is not None:
            raise self.error
        return self.value


class Inbox:
    """Thread-safe entry to the loop: calls are run in order; the loop is woken once per burst."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False
        self._closed = False

    def put(self, function: Callable[..., None], *args: Any) -> None:
        """Any thread. Raises NodeStopped when the node no longer takes calls (nothing was queued)."""
        if self._closed:
            raise NodeStopped("the node is stopped")
        self._calls.append((function, args))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                raise NodeStopped("the node is stopped") from None

    def _drain(self) -> None:
        self._woken = False  # cleared BEFORE draining: a call appended later wakes the loop again
        calls = self._calls
        while calls:
            function, args = calls.popleft()
            function(*args)

    def close(self) -> None:
        """Loop thread: take no more calls; queued ones are still run."""
        self._closed = True
        self._drain()


class Deadline:
    """A monotonic point in time, for calls that retry."""

    __slots__ = ("_end",)

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end


def unknown_after(timeout_s: float) -> Error:
    return OutcomeUnknown(f"no answer within {timeout_s:g} s: the write may or may not take effect")
