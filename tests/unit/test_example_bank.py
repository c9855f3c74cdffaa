"""The example's judge finds what it looks for: a transfer lost, doubled, altered, made up; money that is not right."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BANK = Path(__file__).resolve().parents[2] / "examples" / "bank"


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BANK))
    yield importlib.import_module("kill_under_load")
    for name in ("kill_under_load", "bank"):
        sys.modules.pop(name, None)


def _lose(story: dict[str, Any]) -> None:
    story["transfers"].pop()


def _double(story: dict[str, Any]) -> None:
    story["transfers"].append(story["transfers"][0])


def _alter(story: dict[str, Any]) -> None:
    story["transfers"][0][3] += 1


def _make_up(story: dict[str, Any]) -> None:
    story["transfers"].append(["c", 1, 2, 5])


def _miscount(story: dict[str, Any]) -> None:
    story["balances"]["3"] += 1


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_lose, "lost"),
        (_double, "doubled"),
        (_alter, "nobody sent"),
        (_make_up, "nobody sent"),
        (_miscount, "balances"),
    ],
)
def test_the_judge(chaos: Any, spoil: Callable[[dict[str, Any]], None], fault: str) -> None:
    client = chaos.Client([], threading.Event(), 1)
    orders = {"a": chaos.Order("a", 1, 2, 10), "b": chaos.Order("b", 2, 3, 4)}
    client.sent, client.answered = {**orders, "unanswered": chaos.Order("unanswered", 1, 2, 3)}, orders
    balances = {str(account): chaos.OPENING_BALANCE for account in range(1, chaos.ACCOUNTS + 1)}
    story = {
        "transfers": [list(order) for order in orders.values()],
        "balances": {**balances, "1": 990, "2": 1006, "3": 1004},
    }
    assert chaos.judge([client], story) == []
    spoil(story)
    assert any(fault in found for found in chaos.judge([client], story))
