"""The set checker against a plain restatement of its rules, on long histories, and on malformed ones."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers.durable_set import check_durable_set
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import OpType
from tests.jepsen.listappend import Builder


def restated(history: History) -> dict[str, set[int]]:
    """Each element's fate, element by element and read by read."""
    pairs = history.pairs()
    reads = [
        (p.invoke, p.completion)
        for p in pairs
        if p.invoke.f == "read" and p.completion and p.type is OpType.OK
    ]
    fates: dict[str, set[int]] = {"lost": set(), "stale": set(), "stable": set()}
    for add in (p for p in pairs if p.invoke.f == "add" and p.type is not OpType.FAIL):
        element = add.invoke.value
        proofs = [done.index for _invoke, done in reads if element in done.value]
        if add.completion and add.type is OpType.OK:
            proofs.append(add.completion.index)
        present = max((invoke.index for invoke, done in reads if element in done.value), default=-1)
        absent = max(
            (i.index for i, done in reads if element not in done.value and add.invoke.index < done.index),
            default=-1,
        )
        missed = bool(proofs) and min(proofs) < absent
        if present > absent:
            fates["stable"].add(element)
            fates["stale"] |= {element} if missed else set()
        elif missed:
            fates["lost"].add(element)
    return fates


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Adds with all outcomes, and reads that see any subset of what was ever tried."""
    builder = Builder()
    running: dict[int, tuple[str, Any]] = {}
    tried: list[int] = []
    for _ in range(draw(st.integers(4, 24))):
        process = draw(st.integers(0, 3))
        if process not in running:
            f = draw(st.sampled_from(["add", "read"]))
            value = len(tried) if f == "add" else None
            tried += [len(tried)] if f == "add" else []
            running[process] = (f, value)
            builder.add(OpType.INVOKE, process, value, f)
            continue
        f, value = running.pop(process)
        if f == "read":
            builder.add(OpType.OK, process, [e for e in tried if draw(st.booleans())], f)
        else:
            builder.add(
                draw(st.sampled_from([OpType.OK, OpType.OK, OpType.INFO, OpType.FAIL])), process, value, f
            )
    return builder.history()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(histories())
def test_fates_are_those_of_the_plain_rules(history: History) -> None:
    verdict = check_durable_set(history)
    expected = restated(history)
    assert set(verdict.details["lost"]) == expected["lost"]
    assert set(verdict.details["stale"]) == expected["stale"]
    assert verdict.details["stable"] == len(expected["stable"])
    wrong = expected["lost"] or expected["stale"] or verdict.details["unexpected"]
    assert (verdict.valid is False) == bool(wrong)


def simulate(seed: int, operations: int, lose: int | None = None) -> History:
    """Adds, now and then a read of all. `lose`: this element vanishes after it was acknowledged."""
    rng, builder = random.Random(seed), Builder()
    stored: list[int] = []
    for number in range(operations):
        process = number % 10
        if rng.random() < 0.1:
            builder.add(OpType.INVOKE, process, None, "read")
            builder.add(OpType.OK, process, list(stored), "read")
            continue
        builder.add(OpType.INVOKE, process, number, "add")
        if number != lose:
            stored.append(number)
        builder.add(OpType.OK, process, number, "add")
    builder.add(OpType.INVOKE, 0, None, "read")
    builder.add(OpType.OK, 0, stored, "read")
    return builder.history()


def test_ten_thousand_operations_take_seconds_and_one_loss_is_found() -> None:
    begun = time.process_time()
    assert check_durable_set(simulate(1, 10_000)).valid is True
    lose = next(n for n in range(4000, 5000) if n in simulate(1, 10_000)[-1].value)
    verdict = check_durable_set(simulate(1, 10_000, lose=lose))
    assert verdict.valid is False
    assert verdict.details["lost"] == [lose]
    assert [op.value for op in verdict.counterexample[:2]] == [lose, lose]
    assert time.process_time() - begun < 30


def test_latencies_run_from_the_proof_to_the_last_read_that_missed_it() -> None:
    builder = Builder()  # one event per millisecond
    for type, process, f, value in (
        (OpType.INVOKE, 0, "add", 0),
        (OpType.OK, 0, "add", 0),  # at 1 ms
        (OpType.INVOKE, 1, "read", None),
        (OpType.OK, 1, "read", []),
        (OpType.INVOKE, 1, "read", None),  # at 4 ms
        (OpType.OK, 1, "read", []),
        (OpType.INVOKE, 1, "read", None),
        (OpType.OK, 1, "read", [0]),
    ):
        builder.add(type, process, value, f)
    verdict = check_durable_set(builder.history())
    assert verdict.details["stable-latency-ms"]["1.0"] == 3.0
    assert [op.index for op in verdict.counterexample] == [0, 1, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([("invoke", "add", None)], r"op 0 adds None; expected a number or a string"),
        ([("invoke", "add", [1])], r"op 0 adds \[1\]; expected a number or a string"),
        (
            [("invoke", "add", 1), ("ok", "add", 1), ("invoke", "add", 1)],
            r"op 2 adds 1 again \(first by op 0\); expected each element added once",
        ),
        (
            [("invoke", "read", None), ("ok", "read", 3)],
            r"op 1 reads 3; expected a list of the set's elements",
        ),
        ([("invoke", "read", None), ("ok", "read", [[1]])], r"op 1 reads \[\[1\]\]; expected a list"),
        ([("invoke", "remove", 1)], r'op 0 is \'remove\'; expected "add" or "read"'),
    ],
)
def test_malformed_histories_are_refused_by_index(events: list[tuple[str, str, Any]], message: str) -> None:
    builder = Builder()
    for kind, f, value in events:
        builder.add(OpType(kind), 0, value, f)
    with pytest.raises(HistoryError, match=message):
        check_durable_set(builder.history())
