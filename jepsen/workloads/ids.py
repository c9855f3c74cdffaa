"""Workloads `unique-ids` (AUTOINCREMENT keys never repeat) and `sequence` (a counter that also grows in real time)."""

from __future__ import annotations

from typing import Any

from jepsen.checkers.unique import check_sequence, check_unique_ids
from jepsen.history.history import History
from jepsen.verdict import Verdict
from jepsen.workloads.base import Request, Session, Workload


class UniqueIds(Workload):
    """Ids from an AUTOINCREMENT column."""

    name = "unique-ids"
    about = "ids of an AUTOINCREMENT column; none is given twice"

    def setup(self, session: Session) -> None:
        session.execute(
            "CREATE TABLE IF NOT EXISTS unique_ids(id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT)"
        )

    def next(self) -> Request:
        return Request("generate")

    def apply(self, session: Session, request: Request) -> Any:
        return session.execute("INSERT INTO unique_ids(note) VALUES ('') RETURNING id").table()[0][0]

    def final(self) -> list[Request]:
        return [Request("generate")]

    def check(self, history: History) -> list[Verdict]:
        return [check_unique_ids(history)]


class SequenceIds(Workload):
    """Ids from UPDATE … RETURNING on one row."""

    name = "sequence"
    about = "ids of a counter row; none is given twice, later calls get greater ones"

    def setup(self, session: Session) -> None:
        session.execute("CREATE TABLE IF NOT EXISTS sequence(id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
        session.execute("INSERT OR IGNORE INTO sequence(id, n) VALUES (1, 0)")

    def next(self) -> Request:
        return Request("generate")

    def apply(self, session: Session, request: Request) -> Any:
        return session.execute("UPDATE sequence SET n = n + 1 WHERE id = 1 RETURNING n").table()[0][0]

    def final(self) -> list[Request]:
        return [Request("generate")]

    def check(self, history: History) -> list[Verdict]:
        return [check_sequence(history)]
