"""The time that log entries carry: the leader's wall clock, never going back, even across leaders."""

from __future__ import annotations

from collections.abc import Callable

from dqlite_py.ports import Clock


class LogClock:
    """`newest_us`: the time of the newest entry that this node has routed."""

    def __init__(self, clock: Clock, newest_us: Callable[[], int]) -> None:
        self._clock = clock
        self._newest_us = newest_us
        self._last_us = 0

    def now_us(self) -> int:
        """Microseconds since 1970, larger than any earlier entry's."""
        self._last_us = max(self._clock.wall_us(), self._last_us + 1, self._newest_us() + 1)
        return self._last_us
