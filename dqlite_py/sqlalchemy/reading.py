"""How fresh a statement reads, by its execution options `read_level` and `max_staleness`. Pure but for `Reading.on`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.exc import ArgumentError

from dqlite_py.gateway import ReadLevel

_T = TypeVar("_T")


class Reading(NamedTuple):
    """`staleness` in seconds, of level STALE; None: as the connection has it."""

    level: ReadLevel
    staleness: float | None

    @contextmanager
    def on(self, connection: Any) -> Iterator[None]:
        """Let a connection of the driver read like this for a while."""
        level, staleness = connection.read_level, connection.max_staleness
        connection.read_level = self.level
        if self.staleness is not None:
            connection.max_staleness = self.staleness
        try:
            yield
        finally:
            connection.read_level = level
            connection.max_staleness = staleness


def reading_of(options: Mapping[str, Any], default: ReadLevel | None) -> Reading | None:
    """None: as the connection reads. Raises ArgumentError for options that mean nothing."""
    level = options.get("read_level", default)
    staleness = options.get("max_staleness")
    if level is None and staleness is None:
        return None
    found = ReadLevel.LINEARIZABLE if level is None else argument(ReadLevel, level)
    if staleness is not None and found is not ReadLevel.STALE:
        raise ArgumentError("max_staleness is for read_level='stale'")
    return Reading(found, staleness)


def argument(read: Callable[[Any], _T], value: Any) -> _T:
    """`read(value)`, with SQLAlchemy's exception for what it does not accept."""
    try:
        return read(value)
    except ValueError as error:
        raise ArgumentError(str(error)) from None
