"""Workload `exactly-once`: inserts that clients repeat under one key until they are answered, whoever was killed.

The table has no constraint that would catch a second insertion. The key is asked for first; from then on the write is
sent to one node after the other, some of them once more after the answer.
"""

from __future__ import annotations

import random
from typing import Any, Final

from jepsen.checkers.exactly_once import check_exactly_once
from jepsen.history.history import History
from jepsen.verdict import Verdict
from jepsen.workloads.base import Request, Session, Workload

READ_SHARE: Final = 0.05  # reads return all elements: few of them


class ExactlyOnce(Workload):
    """Repeated inserts of integers, now and then a read of all."""

    name = "exactly-once"
    about = "inserts, each repeated under one key until it is answered; every one takes effect once"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._next_value = 0

    def setup(self, session: Session) -> None:
        session.execute("CREATE TABLE IF NOT EXISTS exactly_once(v INTEGER NOT NULL)")

    def next(self) -> Request:
        if self.rng.random() < READ_SHARE:
            return Request("read", None, is_read=True)
        self._next_value += 1
        return Request("add", self._next_value)

    def apply(self, session: Session, request: Request) -> Any:
        if request.f == "read":
            return [row[0] for row in session.query("SELECT v FROM exactly_once ORDER BY v")]
        session.once([("INSERT INTO exactly_once(v) VALUES (?) RETURNING rowid", [request.value])])
        return request.value

    def final(self) -> list[Request]:
        return [Request("read", None, is_read=True)]

    def check(self, history: History) -> list[Verdict]:
        return [check_exactly_once(history)]
