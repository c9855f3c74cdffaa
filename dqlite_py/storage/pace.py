"""What is known of how long queries take, by their text: which ones may run on a thread that must not be held up."""

from __future__ import annotations

from typing import Final

from dqlite_py.sqltext import CACHED_LENGTH_MAX

QUICK_S: Final = 0.001  # on a thread, where it waits for the interpreter too
SLOW_S: Final = 0.003
MISS: Final = 10  # what one that took longer counts; it is made good by as many that did not
MISSES_MAX: Final = 3 * MISS
MISSES_AT_ONCE: Final = 100 * MISS
PACES_MAX: Final = 1024


class Pace:
    """Which texts are quick whenever they run. Any thread; what is lost between threads costs little."""

    def __init__(self) -> None:
        self._misses: dict[str, int] = {}  # how often they were not, of late

    def is_quick(self, sql: str) -> bool:
        return self._misses.get(sql, MISSES_MAX) < MISSES_MAX

    def was_quick(self, sql: str) -> None:
        """On a thread."""
        misses = self._misses.get(sql)
        if misses is not None:
            if misses:
                self._misses[sql] = misses - 1
        elif len(sql) <= CACHED_LENGTH_MAX:
            if len(self._misses) >= PACES_MAX:
                self._misses.clear()
            self._misses[sql] = 0

    def took(self, sql: str, seconds: float) -> None:
        """A quick one has waited: now and then that is the machine's fault, often it is the disk's."""
        misses = self._misses.get(sql, 0)
        if seconds > SLOW_S:
            self._misses[sql] = misses + MISS
        elif misses:
            self._misses[sql] = misses - 1

    def was_slow(self, sql: str) -> None:
        """For long: it takes long with some parameters."""
        self._misses[sql] = MISSES_AT_ONCE
