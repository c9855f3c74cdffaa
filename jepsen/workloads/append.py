"""Workload `append`: transactions that append to lists and read whole lists, each one atomic unit.

Lists of even keys are rows, one per element; lists of odd keys are one text that grows: the same promise over
inserts into a tree and over updates of a growing record.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar, Final

from jepsen.checkers.elle import check_append
from jepsen.history.history import History
from jepsen.history.op import Keyword
from jepsen.verdict import Verdict
from jepsen.workloads.base import Answer, Request, Session, Statement, Workload

ACTIVE_KEYS: Final = 5
KEY_APPENDS: Final = 40
LENGTH_MAX: Final = 4
FINAL_KEYS: Final = 40  # the latest keys, read again at the end

APPEND = Keyword("append")
READ = Keyword("r")


class Append(Workload):
    """Transactions of 1 to LENGTH_MAX micro-operations over a few active keys, each one unit."""

    name = "append"
    about = "list-append transactions; no cycles of dependencies (strict serializability)"
    tables: ClassVar[str] = "append"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._next_value = dict.fromkeys(range(ACTIVE_KEYS), 1)
        self._next_key = ACTIVE_KEYS

    def setup(self, session: Session) -> None:
        session.execute(
            f"CREATE TABLE IF NOT EXISTS {self.tables}_rows(k INTEGER, seq INTEGER, v INTEGER NOT NULL,"
            " PRIMARY KEY (k, seq))"
        )
        session.execute(
            f"CREATE TABLE IF NOT EXISTS {self.tables}_text(k INTEGER PRIMARY KEY, v TEXT NOT NULL)"
        )

    def next(self) -> Request:
        micros: list[list[Any]] = []
        for _ in range(self.rng.randint(1, LENGTH_MAX)):
            key = self.rng.choice(list(self._next_value))
            if self.rng.random() < 0.5:
                micros.append([READ, key, None])
            else:
                micros.append([APPEND, key, self._take_value(key)])
        return Request("txn", micros, is_read=all(kind == READ for kind, _key, _value in micros))

    def apply(self, session: Session, request: Request) -> Any:
        micros = request.value
        if len(micros) == 1 and request.is_read:
            sql, params = self._statement(READ, micros[0][1], None)
            answers = [Answer(-1, session.query(sql, params))]
        else:
            answers = self._run(session, [self._statement(*micro) for micro in micros])
        return [
            [kind, key, _elements(key, answer) if kind == READ else value]
            for (kind, key, value), answer in zip(micros, answers, strict=True)
        ]

    def _run(self, session: Session, statements: list[Statement]) -> list[Answer]:
        return session.unit(statements)

    def final(self) -> list[Request]:
        first = max(0, self._next_key - FINAL_KEYS)
        return [Request("txn", [[READ, key, None]], is_read=True) for key in range(first, self._next_key)]

    def check(self, history: History) -> list[Verdict]:
        return [check_append(history)]

    def _take_value(self, key: int) -> int:
        value = self._next_value[key]
        self._next_value[key] = value + 1
        if value == KEY_APPENDS:
            del self._next_value[key]
            self._next_value[self._next_key] = 1
            self._next_key += 1
        return value

    def _statement(self, kind: str, key: int, value: int | None) -> Statement:
        rows, text = f"{self.tables}_rows", f"{self.tables}_text"
        is_rows = key % 2 == 0
        if kind == READ:
            if is_rows:
                return f"SELECT v FROM {rows} WHERE k = ? ORDER BY seq", [key]
            return f"SELECT v FROM {text} WHERE k = ?", [key]
        if is_rows:
            return (
                f"INSERT INTO {rows}(k, seq, v) SELECT ?1, coalesce(max(seq), 0) + 1, ?2 FROM {rows} WHERE k = ?1",
                [key, value],
            )
        return (
            f"INSERT INTO {text}(k, v) VALUES (?, ?) ON CONFLICT(k) DO UPDATE SET v = v || ' ' || excluded.v",
            [key, str(value)],
        )


class AppendTransactions(Append):
    """The same, the statements sent one by one inside BEGIN and COMMIT."""

    name = "append-txn"
    about = "list-append in interactive transactions, IMMEDIATE and DEFERRED; strict serializability"
    tables = "append_txn"

    def _run(self, session: Session, statements: list[Statement]) -> list[Answer]:
        is_deferred = sum(len(sql) for sql, _params in statements) % 2 == 0
        return session.transaction(statements, "BEGIN" if is_deferred else "BEGIN IMMEDIATE")


def _elements(key: int, answer: Answer) -> list[int]:
    rows = answer.table()
    if key % 2 == 0:
        return [row[0] for row in rows]
    return [int(element) for element in rows[0][0].split()] if rows else []
