"""Workload `levels`: a counter that is raised, and read at every read level; each level keeps its own promise."""

from __future__ import annotations

from typing import Any, Final

from jepsen.checkers.levels import check_levels
from jepsen.history.history import History
from jepsen.verdict import Verdict
from jepsen.workloads.base import LEADER, LINEARIZABLE, SESSION, STALE, Request, Session, Workload

STALENESS_S: Final = 2.0
LEVELS: Final = (LINEARIZABLE, LEADER, SESSION, STALE)


class Levels(Workload):
    """`bump` returns the counter's new value; `read` is [level, value]."""

    name = "levels"
    about = (
        "a counter read at each read level: linearizable, leader, session (on any node), stale with a bound"
    )

    def setup(self, session: Session) -> None:
        session.execute("CREATE TABLE IF NOT EXISTS levels(id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
        session.execute("INSERT OR IGNORE INTO levels(id, n) VALUES (1, 0)")

    def next(self) -> Request:
        if self.rng.random() < 0.3:
            return Request("bump")
        level = self.rng.choice(LEVELS)
        return Request("read", [level, None], is_read=True, level=level)

    def apply(self, session: Session, request: Request) -> Any:
        if request.f == "bump":
            return session.execute("UPDATE levels SET n = n + 1 WHERE id = 1 RETURNING n").table()[0][0]
        bound = STALENESS_S if request.level == STALE else None
        rows = session.query("SELECT n FROM levels WHERE id = 1", (), request.level, bound)
        return [request.level, rows[0][0] if rows else 0]

    def final(self) -> list[Request]:
        return [Request("read", [level, None], is_read=True, level=level) for level in LEVELS]

    def check(self, history: History) -> list[Verdict]:
        return [check_levels(history, STALENESS_S)]

    def options(self) -> dict[str, Any]:
        return {"max-staleness-s": STALENESS_S}
