"""Client sessions in plain Python: what each unit of an entry is answered, and which rows the table then holds.

Nothing of the engines is used here but their bounds, which a test may make smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from dqlite_py.model import WriteKey

EXPIRED, SUPERSEDED, VOID = 4 | 200 << 8, 4 | 201 << 8, 4 | 202 << 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """limits.py's, or smaller ones."""

    keep_us: int
    ahead_us: int
    sessions: int
    rows_bytes: int
    evictions: int


class Kept(NamedTuple):
    key: WriteKey
    result: bytes


@dataclass(slots=True)
class Row:
    now_us: int
    kept: list[Kept] = field(default_factory=list)

    def data(self) -> bytes:
        return b"".join(
            k.key.session + k.key.sequence.to_bytes(8, "big") + len(k.result).to_bytes(4, "big") + k.result
            for k in self.kept
        )


class Unit(NamedTuple):
    key: WriteKey | None
    is_fence: bool
    run: Callable[[], bytes]  # executes it; its result, as it is to be kept


class SessionModel:
    """All sessions that are remembered are those of `rows`; the newest record of a session counts."""

    def __init__(self, bounds: Bounds, horizon: int = 0) -> None:
        """horizon: log time at which the database was made."""
        self.bounds = bounds
        self.rows: dict[int, Row] = {}
        self.horizon = horizon
        self.wrote_row = False

    def apply(self, index: int, now_us: int, units: Sequence[Unit]) -> list[Any]:
        """Answers by unit: bytes of a result, the code of a refusal, or None for a unit without a key (executed)."""
        newest = self.newest()
        row = Row(now_us)
        answers = [self._apply_unit(newest, row, now_us, unit) for unit in units]
        self.wrote_row = bool(row.kept)
        if row.kept:
            self.rows[index] = row
        live = self._live()
        for old in [i for i in self.rows if i not in live]:
            del self.rows[old]
        self._evict(index, now_us)
        return answers

    def _apply_unit(self, newest: dict[bytes, Kept], row: Row, now_us: int, unit: Unit) -> Any:
        key = unit.key
        if key is None:
            unit.run()
            return None
        known = newest.get(key.session)
        if known is not None and key.sequence == known.key.sequence:
            return known.result
        if known is not None and key.sequence < known.key.sequence:
            return SUPERSEDED
        if (known is None and key.sequence <= self.horizon) or key.sequence > now_us + self.bounds.ahead_us:
            return EXPIRED
        result = void() if unit.is_fence else unit.run()
        row.kept.append(Kept(key, result))
        newest[key.session] = row.kept[-1]
        return result

    def _evict(self, index: int, now_us: int) -> None:
        live = self._live()
        for evicted, old in enumerate(sorted(self.rows)):
            size = sum(len(row.data()) for row in self.rows.values())
            is_due = (
                self.rows[old].now_us < now_us - self.bounds.keep_us
                or sum(map(len, live.values())) > self.bounds.sessions
                or size > self.bounds.rows_bytes
            )
            if old == index or not is_due or evicted == self.bounds.evictions:
                return
            newest = self.newest()
            self.horizon = max(self.horizon, *(newest[session].key.sequence for session in live.pop(old)))
            del self.rows[old]

    def newest(self) -> dict[bytes, Kept]:
        found: dict[bytes, Kept] = {}
        for index in sorted(self.rows):
            found.update((kept.key.session, kept) for kept in self.rows[index].kept)
        return found

    def _live(self) -> dict[int, set[bytes]]:
        """By row, the sessions whose newest record is there."""
        where = {k.key.session: index for index in sorted(self.rows) for k in self.rows[index].kept}
        live: dict[int, set[bytes]] = {}
        for session, index in where.items():
            live.setdefault(index, set()).add(session)
        return live

    def table(self) -> list[tuple[int, int, bytes]]:
        """What the table must hold."""
        rows = [(index, row.now_us, row.data()) for index, row in sorted(self.rows.items())]
        return [(0, 0, self.horizon.to_bytes(8, "big")), *rows] if self.horizon else rows


def void() -> bytes:
    """The result of a fence that came first."""
    message = "the write has not happened and never will: its key is void"
    return bytes(msgpack.packb([VOID, message, 0]))
