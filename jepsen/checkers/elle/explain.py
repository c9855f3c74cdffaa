"""Anomalies in words. Knows the evidence, decides nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from jepsen.checkers.elle.anomalies import Finding
from jepsen.checkers.elle.transactions import Element, Transaction

ELEMENTS_SHOWN: Final = 12
_PLACE: Final = re.compile(r"\{(\d+)\}")


def show(elements: Sequence[Element]) -> str:
    """A list as text, long ones without their middle."""
    if len(elements) <= ELEMENTS_SHOWN:
        return f"[{' '.join(map(str, elements))}]"
    head = " ".join(map(str, elements[:3]))
    tail = " ".join(map(str, elements[-5:]))
    return f"[{head} … {tail}] ({len(elements)} elements)"


def show_transaction(transaction: Transaction) -> str:
    """Its micro-operations, with who ran it and its place in the history."""
    done = transaction.is_committed
    micros = ", ".join(
        f"append {micro.element} to {micro.key}"
        if micro.is_append
        else f"read {micro.key}" + (f" = {show(micro.elements)}" if done else "")
        for micro in transaction.micros
    )
    return f"op {transaction.op.index} (process {transaction.op.process}, {transaction.type}): {micros}"


def explain(finding: Finding, transactions: Sequence[Transaction]) -> str:
    """The finding's text with names T1, T2 … for its transactions, and those in full below."""
    count = len(finding.transactions)

    def name(match: re.Match[str]) -> str:
        return f"T{int(match[1]) + 1}" if int(match[1]) < count else match[0]

    lines = [_PLACE.sub(name, finding.text)]
    named = {int(place) for place in _PLACE.findall(finding.text)}
    lines += [
        f"  T{i + 1} = {show_transaction(transactions[number])}"
        for i, number in enumerate(finding.transactions)
        if i in named
    ]
    return "\n".join(lines)
