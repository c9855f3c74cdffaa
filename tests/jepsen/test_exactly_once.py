"""The exactly-once checker on a simulated store with retries, sound and broken, and on malformed histories."""

from __future__ import annotations

import random
from typing import Any

import pytest

from jepsen.checkers.exactly_once import check_exactly_once
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import OpType
from tests.jepsen.listappend import Builder


def simulate(seed: int, operations: int, repeat: int | None = None, drop: int | None = None) -> History:
    """Adds with all outcomes, each applied as often as its outcome allows, but for the two that break the rule."""
    rng, builder = random.Random(seed), Builder()
    stored: list[int] = []
    for number in range(operations):
        chance = rng.random()
        kind = OpType.OK if chance < 0.8 else OpType.INFO if chance < 0.9 else OpType.FAIL
        count = {OpType.OK: 1, OpType.FAIL: 0, OpType.INFO: rng.randint(0, 1)}[kind]
        if number == repeat:
            kind, count = OpType.OK, 2
        if number == drop:
            kind, count = OpType.OK, 0
        builder.add(OpType.INVOKE, number, number, "add")
        stored += [number] * count
        builder.add(kind, number, number, "add")
    builder.add(OpType.INVOKE, 0, None, "read")
    builder.add(OpType.OK, 0, stored, "read")
    return builder.history()


def test_ten_thousand_adds_of_all_outcomes_are_valid() -> None:
    verdict = check_exactly_once(simulate(1, 10_000))
    assert verdict.valid is True
    assert verdict.details["recovered"]


def test_one_repeated_add_is_found() -> None:
    verdict = check_exactly_once(simulate(2, 10_000, repeat=7000))
    assert verdict.valid is False
    assert verdict.details["repeated"] == [7000]
    assert verdict.details["missing"] == []
    assert verdict.counterexample[0].value == 7000


def test_one_missing_add_is_found() -> None:
    verdict = check_exactly_once(simulate(3, 10_000, drop=9000))
    assert verdict.details["missing"] == [9000]
    assert verdict.details["repeated"] == []


def test_an_add_concurrent_with_the_last_read_may_be_missing() -> None:
    builder = Builder()
    for type, process, f, value in (
        (OpType.INVOKE, 0, "add", 1),
        (OpType.OK, 0, "add", 1),
        (OpType.INVOKE, 0, "add", 2),
        (OpType.INVOKE, 1, "read", None),
        (OpType.OK, 0, "add", 2),
        (OpType.OK, 1, "read", [1]),
    ):
        builder.add(type, process, value, f)
    assert check_exactly_once(builder.history()).valid is True


def test_an_earlier_read_can_show_a_repetition_that_the_last_one_does_not() -> None:
    builder = Builder()
    for type, f, value in (
        (OpType.INVOKE, "add", 1),
        (OpType.OK, "add", 1),
        (OpType.INVOKE, "read", None),
        (OpType.OK, "read", [1, 1]),
        (OpType.INVOKE, "read", None),
        (OpType.OK, "read", [1]),
    ):
        builder.add(type, 0, value, f)
    verdict = check_exactly_once(builder.history())
    assert verdict.details["repeated"] == [1]
    assert [op.index for op in verdict.counterexample] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([("invoke", "add", None)], r"op 0 adds None; expected a number or a string"),
        (
            [("invoke", "add", 1), ("fail", "add", 1), ("invoke", "add", 1)],
            r"op 2 adds 1 again \(first by op 0\); expected each element added by one logical operation",
        ),
        ([("invoke", "read", None), ("ok", "read", None)], r"op 1 reads None; expected a list of elements"),
        (
            [("invoke", "read", None), ("ok", "read", [[1]])],
            r"op 1 reads \[\[1\]\]; expected a list of elements",
        ),
        ([("invoke", "write", 1)], r'op 0 is \'write\'; expected "add" or "read"'),
    ],
)
def test_malformed_histories_are_refused_by_index(events: list[tuple[str, str, Any]], message: str) -> None:
    builder = Builder()
    for kind, f, value in events:
        builder.add(OpType(kind), 0, value, f)
    with pytest.raises(HistoryError, match=message):
        check_exactly_once(builder.history())
