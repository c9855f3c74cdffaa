"""A logger that strangers cannot flood: some lines per interval, and a count of those left out. Loop thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from dqlite_py.logs import event


class QuietLog:
    """At most `lines_max` lines per `interval_s`; the next interval begins with how many were not written."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        lines_max: int = 20,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._lines_max = lines_max
        self._interval_s = interval_s
        self._clock = clock
        self._began = clock()
        self._lines = 0

    def log(self, level: int, text: object, /, *arguments: object, **options: Any) -> None:
        now = self._clock()
        if now - self._began >= self._interval_s:
            left_out = self._lines - self._lines_max
            if left_out > 0:
                event(self._logger, level, "lines about incoming connections were left out", count=left_out)
            self._began, self._lines = now, 0
        self._lines += 1
        if self._lines <= self._lines_max:
            self._logger.log(level, text, *arguments, **options)
