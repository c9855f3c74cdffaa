"""The bank checker on simulated banks, sound and broken, and on malformed histories."""

from __future__ import annotations

import random
from typing import Any

import pytest

from jepsen.checkers.bank import check_bank
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import OpType
from tests.jepsen.listappend import Builder

ACCOUNTS = 8
TOTAL = 80


def simulate(seed: int, operations: int, tear_at: int | None = None) -> History:
    """Transfers and reads of ten clients. `tear_at`: the read of this number sees a transfer's debit without credit."""
    rng, builder = random.Random(seed), Builder()
    balances = dict.fromkeys(range(ACCOUNTS), TOTAL // ACCOUNTS)
    reads = 0
    for number in range(operations):
        process = number % 10
        if rng.random() < 0.5:
            builder.add(OpType.INVOKE, process, None, "read")
            seen = dict(balances)
            if reads == tear_at:
                seen[rng.randrange(ACCOUNTS)] += 3
            reads += 1
            builder.add(OpType.OK, process, seen, "read")
            continue
        source, target = rng.sample(range(ACCOUNTS), 2)
        value = {"from": source, "to": target, "amount": rng.randint(1, 5)}
        builder.add(OpType.INVOKE, process, value, "transfer")
        if balances[source] < value["amount"]:
            builder.add(OpType.FAIL, process, value, "transfer")
            continue
        balances[source] -= value["amount"]
        balances[target] += value["amount"]
        builder.add(OpType.OK, process, value, "transfer")
    return builder.history()


def test_a_sound_bank_is_valid() -> None:
    verdict = check_bank(simulate(1, 10_000), total=TOTAL, accounts=range(ACCOUNTS))
    assert verdict.valid is True
    assert verdict.summary.endswith(", total 80")


def test_one_torn_read_among_thousands_is_found() -> None:
    history = simulate(2, 10_000, tear_at=2500)
    verdict = check_bank(history, total=TOTAL, accounts=range(ACCOUNTS))
    assert verdict.valid is False
    assert set(verdict.details) == {"wrong-total"}
    assert len(verdict.details["wrong-total"]) == 1
    assert "add up to 83, not to 80" in verdict.details["wrong-total"][0]
    torn = verdict.counterexample[1]
    assert sum(torn.value.values()) == 83
    assert verdict.details["wrong-total"][0].startswith(f"op {torn.index} ")


def test_total_and_accounts_default_to_the_first_read() -> None:
    assert check_bank(simulate(3, 200)).valid is True
    builder = Builder()
    for balances in ({0: 5, 1: 5}, {0: 5, 1: 6}):
        builder.add(OpType.INVOKE, 0, None, "read")
        builder.add(OpType.OK, 0, balances, "read")
    assert set(check_bank(builder.history()).details) == {"wrong-total"}


def test_failed_and_unknown_reads_are_not_judged() -> None:
    builder = Builder()
    builder.add(OpType.INVOKE, 0, None, "read")
    builder.add(OpType.FAIL, 0, {0: 1}, "read")
    builder.add(OpType.INVOKE, 0, None, "read")
    builder.add(OpType.INFO, 0, None, "read")
    assert check_bank(builder.history(), total=5).valid is None


@pytest.mark.parametrize(
    ("f", "asked", "done", "message"),
    [
        ("read", None, [1, 2], r"op 1 reads \[1, 2\]; expected a map of accounts to whole numbers"),
        ("read", None, {0: "ten"}, r"op 1 reads \{0: 'ten'\}; expected a map"),
        ("read", None, {0: True}, r"op 1 reads \{0: True\}; expected a map"),
        (
            "transfer",
            {"from": 0, "to": 1},
            {},
            r"op 0 transfers .*; expected a map with :from, :to and :amount",
        ),
        ("transfer", None, None, r"op 0 transfers None; expected a map with :from"),
    ],
)
def test_malformed_values_are_refused_by_index(f: str, asked: Any, done: Any, message: str) -> None:
    builder = Builder()
    builder.add(OpType.INVOKE, 0, asked, f)
    builder.add(OpType.OK, 0, done, f)
    with pytest.raises(HistoryError, match=message):
        check_bank(builder.history(), total=0)
