"""Workload `register`: compare-and-set registers, each a row; every operation must be linearizable.

Keys rotate: a key is retired after KEY_OPERATIONS, so that the histories to search stay short.
"""

from __future__ import annotations

import random
from typing import Any, Final

from jepsen.checkers.linearizable import check_register
from jepsen.history.history import History
from jepsen.verdict import Verdict
from jepsen.workloads.base import Rejected, Request, Session, Workload

ACTIVE_KEYS: Final = 4
KEY_OPERATIONS: Final = 100
VALUES: Final = 3  # few, so that a compare-and-set often succeeds


class Register(Workload):
    """Reads, writes and compare-and-sets of a few keys at a time."""

    name = "register"
    about = "compare-and-set registers with linearizable reads; linearizable per key"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._left = dict.fromkeys(range(ACTIVE_KEYS), KEY_OPERATIONS)
        self._next_key = ACTIVE_KEYS

    def setup(self, session: Session) -> None:
        session.execute("CREATE TABLE IF NOT EXISTS register(k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")

    def next(self) -> Request:
        key = self.rng.choice(list(self._left))
        self._left[key] -= 1
        if self._left[key] == 0:
            del self._left[key]
            self._left[self._next_key] = KEY_OPERATIONS
            self._next_key += 1
        kind = self.rng.random()
        if kind < 0.4:
            return Request("read", [key, None], is_read=True)
        if kind < 0.7:
            return Request("write", [key, self.rng.randrange(VALUES)])
        return Request("cas", [key, [self.rng.randrange(VALUES), self.rng.randrange(VALUES)]])

    def apply(self, session: Session, request: Request) -> Any:
        key, value = request.value
        if request.f == "read":
            rows = session.query("SELECT v FROM register WHERE k = ?", [key])
            return [key, rows[0][0] if rows else None]
        if request.f == "write":
            session.execute(
                "INSERT INTO register(k, v) VALUES (?, ?) ON CONFLICT(k) DO UPDATE SET v = excluded.v",
                [key, value],
            )
            return request.value
        old, new = value
        answer = session.execute("UPDATE register SET v = ? WHERE k = ? AND v = ?", [new, key, old])
        if answer.rowcount != 1:
            raise Rejected(f"the register does not hold {old}")
        return request.value

    def final(self) -> list[Request]:
        return [Request("read", [key, None], is_read=True) for key in self._left]

    def check(self, history: History) -> list[Verdict]:
        return [check_register(history)]
