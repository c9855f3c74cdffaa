"""Simulated time: a heap of events in the order (time, sequence). The only thing in a simulation that advances."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Event:
    """Something due at a time; `cancel` makes it nothing."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., Any] | None, args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None
        self.args = ()


class Scheduler:
    """`now`: simulated seconds since the beginning. Events of one instant run in the order they were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.event_count = 0
        self._heap: list[tuple[float, int, Event]] = []
        self._sequence = 0

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Event:
        """Run `callback(*args)` at `when`; a time that has passed means now, behind what is due now."""
        event = Event(callback, args)
        self._sequence += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._sequence, event))
        return event

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Event:
        event = Event(callback, args)
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay if delay > 0 else self.now, self._sequence, event))
        return event

    def run_until(self, when: float, is_over: Callable[[], bool] | None = None) -> None:
        """Run everything due up to `when`, or until `is_over` (looked at after each event); then it is `when`."""
        heap = self._heap
        while heap and heap[0][0] <= when:
            self.now, _, event = heapq.heappop(heap)
            callback = event.callback
            if callback is not None:
                self.event_count += 1
                callback(*event.args)
                if is_over is not None and is_over():
                    return
        self.now = when
