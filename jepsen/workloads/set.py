"""Workload `set`: unique integers are inserted; every acknowledged one must be in the final reads of every node."""

from __future__ import annotations

import random
from typing import Any, Final

from jepsen.checkers.durable_set import check_durable_set
from jepsen.history.history import History
from jepsen.verdict import Verdict
from jepsen.workloads.base import Request, Session, Workload

READ_SHARE: Final = 0.05  # reads return the whole set: few of them


class Set(Workload):
    """Inserts of unique integers, now and then a read of all."""

    name = "set"
    about = "inserts and reads of the whole set; nothing acknowledged is lost, nothing appears from nowhere"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._next_value = 0

    def setup(self, session: Session) -> None:
        session.execute("CREATE TABLE IF NOT EXISTS set_(v INTEGER PRIMARY KEY)")

    def next(self) -> Request:
        if self.rng.random() < READ_SHARE:
            return Request("read", None, is_read=True)
        self._next_value += 1
        return Request("add", self._next_value)

    def apply(self, session: Session, request: Request) -> Any:
        if request.f == "read":
            return [row[0] for row in session.query("SELECT v FROM set_ ORDER BY v")]
        session.execute("INSERT INTO set_(v) VALUES (?)", [request.value])
        return request.value

    def final(self) -> list[Request]:
        return [Request("read", None, is_read=True)]

    def check(self, history: History) -> list[Verdict]:
        return [check_durable_set(history)]
