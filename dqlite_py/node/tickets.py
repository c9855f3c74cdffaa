"""Hand-over between user threads and the loop: one lock per call, one loop wake-up for many calls.

Callers that are answered together are not all woken together: they would fight for the interpreter lock, each losing
it once or twice before it runs. `Turns` wakes the first; whoever is about to wait for its next answer wakes the next.
Callers that go their own way instead hold nobody up for long: a timer on the loop notices and wakes all the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from dqlite_py.errors import Error, NodeStopped, OutcomeUnknown
from dqlite_py.node import gates

STALL_S: Final = 0.001
WIDTH_MAX: Final = 8  # callers that have the turn at the same time, at most
LOST_TURN_S: Final = 1.0
GATHER_S: Final = 0.0003  # waited for more calls, and this much longer with each that comes:
GATHER_MORE_S: Final = 0.0001
GATHER_MAX_S: Final = 0.005
TOGETHER_MIN: Final = 32  # answers that are given at once after a stall, before turns are tried again:
TOGETHER_MAX: Final = 2048  # four times as many after each further one


class Ticket:
    """One blocking call of a user thread. `resolve` runs on the loop (the first one counts), `wait` on the caller's."""

    __slots__ = ("_turns", "abandoned", "done", "error", "gate", "value")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.gate = gates.Gate()
        self.done = False
        self.abandoned = False
        self.value: Any = None
        self.error: Error | None = None

    def resolve(self, value: Any, error: Error | None) -> None:
        if not self.done:
            self.value, self.error, self.done = value, error, True
            self._turns.add(self)

    def wait(self, timeout_s: float, on_timeout: Callable[[], Error]) -> Any:
        """Block until resolved; raises its error, or `on_timeout()` after the time (also sets `abandoned`).

        A KeyboardInterrupt leaves the ticket abandoned: the call may still take effect.
        """
        other = None
        try:
            other = self._turns.next_gate()
            opened = self.gate.wait(min(timeout_s, LOST_TURN_S), other)
            if not opened and not self.done:
                opened = self._wait_on(timeout_s - LOST_TURN_S)
        except BaseException:
            self.abandoned = True
            if other is not None:
                other.open()
            raise
        if not opened and not self.done:
            self.abandoned = True
            raise on_timeout()
        if self.error is not None:
            raise self.error
        return self.value

    def _wait_on(self, left_s: float) -> bool:
        """In slices: a turn is lost when a KeyboardInterrupt hits the thread that was passing it on."""
        while left_s > 0 and not self.done:
            if self.gate.wait(min(left_s, LOST_TURN_S), None):
                return True
            left_s -= LOST_TURN_S
        return self.done


class Turns:
    """Answered tickets whose threads are still to be woken, one after the other.

    `add` runs on the loop, `next_gate` on any user thread. At any time one of these is true: nobody waits to be woken;
    a thread that was woken will pass on; the timer runs.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_all_woken: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = loop
        self._on_all_woken = on_all_woken
        self._ready: deque[Ticket] = deque()
        self._is_active = False  # somebody has the turn
        self._is_watched = False
        self._passed = self._passed_before = 0
        self._stalls = 0  # one after the other
        self._has_stalled = False  # since the queue was empty
        self._width = 1  # callers that get the turn at the same time
        self._given = 0

    @property
    def pending(self) -> int:
        """So many threads were answered and have not been woken yet."""
        return len(self._ready)

    def add(self, ticket: Ticket) -> None:
        """`ticket` is answered: its thread gets its turn."""
        self._ready.append(ticket)
        if not self._is_active:
            self._is_active = True
            self._given = 0
            if not self._has_stalled:
                self._width = max(1, self._width // 2)
            self._has_stalled = False
        if self._given < self._width:
            self._given += 1
            self._pass_on()
        if not self._is_watched:
            self._keep_watch()

    def next_gate(self) -> Any:
        """The gate of the next one to be woken, or None; the caller opens it and is about to wait."""
        ready = self._ready
        while True:
            try:
                ticket = ready.popleft()
            except IndexError:
                self._is_active = False
                if not ready:  # looked at again AFTER the flag: `add` may have read it before
                    self._on_all_woken()
                    return None
                self._is_active = True
                continue
            if not ticket.abandoned:
                self._passed += 1
                return ticket.gate

    def _pass_on(self) -> None:
        """On the loop."""
        gate = self.next_gate()
        if gate is not None:
            gate.open()

    def _watch(self) -> None:
        self._is_watched = False
        if not self._is_active:
            return
        if self._passed != self._passed_before:
            self._stalls = 0
            self._keep_watch()
            return
        # Whoever has the turn has gone its own way, or the machine is busy with something else.
        self._has_stalled = True
        self._width = min(2 * self._width, WIDTH_MAX)
        for _ in range(1 << min(self._stalls, 10)):
            self._pass_on()
        self._stalls += 1
        if self._is_active:
            self._keep_watch()

    def _keep_watch(self) -> None:
        self._is_watched = True
        self._passed_before = self._passed  # AFTER a turn that the loop itself gave
        self._loop.call_later(STALL_S, self._watch)


class Inbox:
    """Thread-safe entry to the loop: calls are run in order; the loop is woken once per burst.

    While answered threads are still being woken, more calls are about to come: they are waited for, not for long.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._after: list[Callable[[], None]] = []
        self._woken = False
        self._gathering_since = 0.0
        self._closed = False
        self._why_closed: Callable[[], Error] = _stopped
        self.turns = Turns(loop, self._all_woken)

    def put(self, function: Callable[..., None], *args: Any) -> None:
        """Any thread. Raises NodeStopped when the node no longer takes calls (nothing was queued)."""
        if self._closed:
            raise self._why_closed()
        call = (function, args)
        self._calls.append(call)
        if self._woken or (self.turns.pending and self._may_gather()) or self._wake():
            return
        try:
            self._calls.remove(call)
        except ValueError:
            return  # the loop took it before it was closed: it is answered, or its time ends
        raise _stopped()

    def _may_gather(self) -> bool:
        """Callers that come one right after the other are worth waiting for; those that first do work of their own
        are not."""
        now = time.monotonic()
        if not self._gathering_since:
            self._gathering_since = now
        waited_s = now - self._gathering_since
        come = len(self._calls)
        return waited_s < GATHER_S + GATHER_MORE_S * come and waited_s < GATHER_MAX_S

    def _all_woken(self) -> None:
        """On any thread: nobody else is about to call."""
        if self._calls and not self._woken and not self._closed:
            self._wake()

    def _wake(self) -> bool:
        """False when the loop is closed."""
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            return False
        return True

    def soon(self, function: Callable[[], None]) -> None:
        """Loop thread: run `function` after the calls that are there, those of this turn of the loop included."""
        self._after.append(function)
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        calls = self._calls
        self._gathering_since = 0.0
        while calls:
            function, args = calls.popleft()
            function(*args)
        after, self._after = self._after, []
        self._woken = False  # BEFORE looking again: a call appended later wakes the loop again
        for function in after:
            function()
        if calls and not self._woken:
            self._woken = True
            self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Loop thread: take no more calls; queued ones are still run."""
        self._closed = True
        self._drain()

    def leave(self, why: Callable[[], Error]) -> None:
        """In a forked child, which has no loop: take no calls, saying `why`; those of the parent are the parent's."""
        self._why_closed, self._closed = why, True


class Deadline:
    """A monotonic point in time, for calls that retry."""

    __slots__ = ("_end", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end


def _stopped() -> Error:
    return NodeStopped("the node is stopped")


def unknown_after(timeout_s: float) -> Error:
    return OutcomeUnknown(f"no answer within {timeout_s:g} s: the write may or may not take effect")
