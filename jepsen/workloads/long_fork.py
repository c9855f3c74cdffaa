"""Workload `long-fork`: each key is written once; all reads of a group must agree on one order of its writes.

Half of the reads are stale ones: a stale read is old, but it must still be a prefix of the one history.
"""

from __future__ import annotations

import random
from typing import Any, Final

from jepsen.checkers.long_fork import check_long_fork
from jepsen.history.history import History
from jepsen.history.op import Keyword
from jepsen.verdict import Verdict
from jepsen.workloads.base import LINEARIZABLE, STALE, Request, Session, Workload

GROUP: Final = 3  # keys read together
ACTIVE_GROUPS: Final = 3

WRITE = Keyword("w")
READ = Keyword("r")


class LongFork(Workload):
    """Single writes and reads of whole groups; groups follow one another."""

    name = "long-fork"
    about = "single writes, group reads at both read levels; no two reads see two writes in opposite orders"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._unwritten: dict[int, list[int]] = {}
        self._next_group = 0
        for _ in range(ACTIVE_GROUPS):
            self._add_group()

    def setup(self, session: Session) -> None:
        session.execute("CREATE TABLE IF NOT EXISTS long_fork(k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")

    def next(self) -> Request:
        if self.rng.random() < 0.7:
            # Groups written to the end are read for a while, too: a fork may show only then.
            first = max(0, self._next_group - 2 * ACTIVE_GROUPS)
            level = STALE if self.rng.random() < 0.5 else LINEARIZABLE
            return self._read(self.rng.randrange(first, self._next_group), level)
        group = self.rng.choice(list(self._unwritten))
        unwritten = self._unwritten[group]
        key = unwritten.pop(self.rng.randrange(len(unwritten)))
        if not unwritten:
            del self._unwritten[group]
            self._add_group()
        return Request("txn", [[WRITE, key, 1]])

    def apply(self, session: Session, request: Request) -> Any:
        if not request.is_read:
            [[_kind, key, value]] = request.value
            session.execute("INSERT INTO long_fork(k, v) VALUES (?, ?)", [key, value])
            return request.value
        keys = [key for _kind, key, _value in request.value]
        marks = ", ".join("?" * len(keys))
        rows = session.query(f"SELECT k, v FROM long_fork WHERE k IN ({marks})", keys, request.level)
        found = {row[0]: row[1] for row in rows}
        return [[READ, key, found.get(key)] for key in keys]

    def final(self) -> list[Request]:
        return [self._read(group, LINEARIZABLE) for group in range(self._next_group)[-10:]]

    def options(self) -> dict[str, Any]:
        return {"group": GROUP, "stale-reads": 0.5}

    def check(self, history: History) -> list[Verdict]:
        return [check_long_fork(history, group_size=GROUP)]

    def _read(self, group: int, level: str) -> Request:
        keys = range(group * GROUP, (group + 1) * GROUP)
        return Request("txn", [[READ, key, None] for key in keys], is_read=True, level=level)

    def _add_group(self) -> None:
        first = self._next_group * GROUP
        self._unwritten[self._next_group] = list(range(first, first + GROUP))
        self._next_group += 1
