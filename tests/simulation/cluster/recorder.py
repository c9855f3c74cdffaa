"""What a simulation logged, with simulated times: the last lines of a run, kept for the message of a failure."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tests.simulation.cluster.life import Kernel

LINES_KEPT = 4000
NAMES = ("dqlite_py", "simulation", "asyncio")


class Recorder(logging.Handler):
    """Keeps records as (time, process, record); formats them only when asked. Drops what a dead process says."""

    def __init__(self, live: TextIO | None = None) -> None:
        super().__init__(logging.INFO)
        self._kept: deque[tuple[float, str, logging.LogRecord]] = deque(maxlen=LINES_KEPT)
        self._live = live

    def emit(self, record: logging.LogRecord) -> None:
        kernel = Kernel.current
        if kernel is None:
            return
        life = kernel.life
        if life is not None and not life.alive:
            return
        row = (kernel.scheduler.now, life.name if life is not None else "-", record)
        self._kept.append(row)
        if self._live is not None:
            self._live.write(_line(*row) + "\n")

    def lines(self, count: int = LINES_KEPT) -> list[str]:
        return [_line(*row) for row in list(self._kept)[-count:]]


def _line(now: float, name: str, record: logging.LogRecord) -> str:
    text = f"{now:10.5f} {name:>3} {record.levelname:<8} {record.getMessage()}"
    if record.exc_info and record.exc_info[1] is not None:
        text += f"  [{record.exc_info[1]!r}]"
    return text


@contextmanager
def recording(live: TextIO | None = None) -> Iterator[Recorder]:
    """Take over the loggers of product and simulation."""
    recorder = Recorder(live)
    before = []
    for name in NAMES:
        logger = logging.getLogger(name)
        before.append((logger, logger.handlers[:], logger.propagate, logger.level))
        logger.handlers, logger.propagate = [recorder], False
        logger.setLevel(logging.INFO)
    try:
        yield recorder
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
