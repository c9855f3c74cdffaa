"""How fast a source may make and hand out a copy: as fast as it can alone, bounded beside writes.

The writers' fsyncs and threads share disk and processors with it. What it does is cut into pieces, and after each it
rests while the log grows. The bounds are floors too: a member is caught up in a time that follows from the size.

`rest` runs on the executor's threads, `turn` on the loop's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from dqlite_py.limits import (
    SNAPSHOT_ALONE_MS,
    SNAPSHOT_COPY_BYTES_PER_S,
    SNAPSHOT_REST_RATIO,
    SNAPSHOT_SEND_BYTES_PER_S,
)
from dqlite_py.ports import Clock


class SourcePace:
    """Of one source. `last_index`: where the log ends, asked on any thread. What races here only changes a rest."""

    def __init__(self, clock: Clock, last_index: Callable[[], int]) -> None:
        self._clock = clock
        self._last_index = last_index
        self._seen_index = last_index()
        self._grew_ms = -SNAPSHOT_ALONE_MS  # before the clock's zero: nothing was written yet
        self._rested_ms = 0.0
        self._next_turn_ms = 0.0
        self._ended = threading.Event()

    def end(self) -> None:
        """Nobody rests any more."""
        self._ended.set()

    @property
    def is_beside_writes(self) -> bool:
        """Whether the log has grown of late."""
        now_ms, index = self._clock.monotonic_ms(), self._last_index()
        if index != self._seen_index:
            self._seen_index, self._grew_ms = index, now_ms
        return now_ms - self._grew_ms < SNAPSHOT_ALONE_MS

    def begin(self) -> None:
        """A copy's first piece begins."""
        self._rested_ms = self._clock.monotonic_ms()

    def rest(self, size_bytes: int) -> None:
        """A piece of so many bytes is done."""
        if self.is_beside_writes:
            took_ms = self._clock.monotonic_ms() - self._rested_ms
            left_ms = size_bytes * 1000 / SNAPSHOT_COPY_BYTES_PER_S - took_ms
            self._ended.wait(max(0.0, min(took_ms * SNAPSHOT_REST_RATIO, left_ms)) / 1000)
        self._rested_ms = self._clock.monotonic_ms()

    async def turn(self, size_bytes: int) -> None:
        """Return when so many bytes may be handed out."""
        now_ms = self._clock.monotonic_ms()
        if self.is_beside_writes:
            start_ms = max(now_ms, self._next_turn_ms)
            self._next_turn_ms = start_ms + size_bytes * 1000 / SNAPSHOT_SEND_BYTES_PER_S
            await asyncio.sleep((start_ms - now_ms) / 1000)
