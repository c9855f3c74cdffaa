"""Workload `bank`: transfers between accounts, each one atomic unit; the total never changes, no balance is negative.

The credit comes first, so that a debit refused by the CHECK constraint must undo it.
"""

from __future__ import annotations

from typing import Any, Final

from jepsen.checkers.bank import check_bank
from jepsen.history.history import History
from jepsen.verdict import Verdict
from jepsen.workloads.base import Request, Session, Workload

ACCOUNTS: Final = 8
START_BALANCE: Final = 10
TOTAL: Final = ACCOUNTS * START_BALANCE
AMOUNT_MAX: Final = 5


class Bank(Workload):
    """Transfers, and reads of all accounts at once."""

    name = "bank"
    about = "transfers as one unit, reads of all accounts; constant total, no negative balance"

    def setup(self, session: Session) -> None:
        session.execute(
            "CREATE TABLE IF NOT EXISTS bank(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0))"
        )
        session.unit(
            [
                ("INSERT OR IGNORE INTO bank(id, balance) VALUES (?, ?)", [account, START_BALANCE])
                for account in range(ACCOUNTS)
            ]
        )

    def next(self) -> Request:
        if self.rng.random() < 0.4:
            return Request("read", None, is_read=True)
        source, target = self.rng.sample(range(ACCOUNTS), 2)
        amount = self.rng.randint(1, AMOUNT_MAX)
        return Request("transfer", {"from": source, "to": target, "amount": amount})

    def apply(self, session: Session, request: Request) -> Any:
        if request.f == "read":
            return {row[0]: row[1] for row in session.query("SELECT id, balance FROM bank ORDER BY id")}
        transfer = request.value
        session.unit(
            [
                ("UPDATE bank SET balance = balance + ? WHERE id = ?", [transfer["amount"], transfer["to"]]),
                (
                    "UPDATE bank SET balance = balance - ? WHERE id = ?",
                    [transfer["amount"], transfer["from"]],
                ),
            ]
        )
        return transfer

    def final(self) -> list[Request]:
        return [Request("read", None, is_read=True)]

    def options(self) -> dict[str, Any]:
        return {"total": TOTAL, "accounts": list(range(ACCOUNTS))}

    def check(self, history: History) -> list[Verdict]:
        return [check_bank(history, total=TOTAL, accounts=range(ACCOUNTS))]
