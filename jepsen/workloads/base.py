"""What a workload is: which operations to issue, how one is done over SQL, and which checkers judge the history.

Knows neither clusters nor threads: the runner calls `next` under a lock, so operation n of a run is a function of
the seed and n; which client takes it, and when, is not fixed.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from jepsen.history.history import History
from jepsen.verdict import Verdict

LINEARIZABLE = "linearizable"
LEADER = "leader"
SESSION = "session"
STALE = "stale"

Statement = tuple[str, Sequence[Any]]
Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one statement did: `rowcount` as in PEP 249, `rows` None for a statement that returns none."""

    rowcount: int
    rows: Rows | None = None

    def table(self) -> Rows:
        """The rows; an empty list where there are none."""
        return self.rows or []


class Session(Protocol):
    """One client's connection to one node. Every call may raise what the cluster's client raises:
    Failed (certainly not done) or Unknown (may have happened)."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Answer: ...

    def unit(self, statements: Sequence[Statement]) -> list[Answer]:
        """Run statements all or nothing; one answer per statement."""
        ...

    def once(self, statements: Sequence[Statement]) -> list[Answer]:
        """As `unit`, repeated under one key, on one node after the other, until the answer is there; now and then also
        after it, when the answer must be the same."""
        ...

    def transaction(self, statements: Sequence[Statement], begin: str) -> list[Answer]:
        """BEGIN, the statements one by one, COMMIT."""
        ...

    def query(
        self,
        sql: str,
        params: Sequence[Any] = (),
        level: str = LINEARIZABLE,
        max_staleness: float | None = None,
    ) -> Rows:
        """At level SESSION on any node: one that has at least what this session wrote and read before."""
        ...


class Rejected(Exception):
    """The operation certainly did not happen, by its own rules (a compare-and-set that compared unequal)."""


@dataclass(frozen=True, slots=True)
class Request:
    """An operation to issue. `is_read`: it changes nothing, so that an unknown outcome counts as failed.

    `level`: the read level of a plain query.
    """

    f: str
    value: Any = None
    is_read: bool = False
    level: str = LINEARIZABLE


class Workload(ABC):
    """One kind of load on tables of its own; an instance serves one run."""

    name: ClassVar[str]
    about: ClassVar[str]  # one line for `list` and the report

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    @abstractmethod
    def setup(self, session: Session) -> None:
        """Make the tables; may be repeated after an unknown outcome."""

    @abstractmethod
    def next(self) -> Request:
        """The next operation. Called under the runner's lock."""

    @abstractmethod
    def apply(self, session: Session, request: Request) -> Any:
        """Do it; return the value of the completion. Raises Rejected, or the session's errors."""

    @abstractmethod
    def check(self, history: History) -> list[Verdict]:
        """Judge the history of a finished run."""

    def final(self) -> list[Request]:
        """Operations for every node once the cluster is healed."""
        return []

    def options(self) -> dict[str, Any]:
        """Parameters that a reader of the history needs (they go to test.json)."""
        return {}
