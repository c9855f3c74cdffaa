"""Generated ids: none is given out twice; a sequence also grows in real time."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType, Pair
from jepsen.verdict import Verdict

EXPLAINED_MAX: Final = 8


def check_unique_ids(history: History) -> Verdict:
    """Check that all ids of completed `generate` operations differ.

    `details`: `duplicates` -> explanations. `counterexample`: the first two operations that got one id. `valid` None:
    no id was given out. Raises HistoryError for a completion without an id, naming the index.
    """
    given = _given(history)
    if not given:
        return _nothing("unique-ids")
    details, counterexample = _duplicates(given)
    return _verdict("unique-ids", given, details, counterexample)


def check_sequence(history: History) -> Verdict:
    """Check that ids differ, and that an operation begun after another one completed got the greater id.

    `details`: `duplicates`, `not-increasing` -> explanations. Raises HistoryError for a completion without a whole
    number, naming the index.
    """
    given = _given(history)
    if not given:
        return _nothing("sequence")
    for _pair, op in given:
        if not isinstance(op.value, int) or isinstance(op.value, bool):
            raise HistoryError(f"op {op.index} generates {op.value!r}", expected="a whole number")
    details, counterexample = _duplicates(given)
    decreasing, example = _decreasing(given)
    return _verdict("sequence", given, details | decreasing, counterexample or example)


def _given(history: History) -> list[tuple[Pair, Op]]:
    given: list[tuple[Pair, Op]] = []
    for pair in history.pairs():
        op = pair.completion
        if op is None or op.f != "generate" or op.type is not OpType.OK:
            continue
        if op.value is None or not isinstance(op.value, Hashable):
            raise HistoryError(
                f"op {op.index} generates {op.value!r}", expected="an id: a number or a string"
            )
        given.append((pair, op))
    return given


def _nothing(checker: str) -> Verdict:
    return Verdict(checker, None, "no id was given out: nothing to judge")


def _duplicates(given: list[tuple[Pair, Op]]) -> tuple[dict[str, Any], list[Op]]:
    by_id: dict[Hashable, list[tuple[Pair, Op]]] = {}
    for pair, op in given:
        by_id.setdefault(op.value, []).append((pair, op))
    repeated = {value: found for value, found in by_id.items() if len(found) > 1}
    if not repeated:
        return {}, []
    texts = [
        f"{value} was given out {len(found)} times: by ops {', '.join(str(op.index) for _pair, op in found[:8])}"
        for value, found in list(repeated.items())[:EXPLAINED_MAX]
    ]
    return {"duplicates": texts}, _ops(next(iter(repeated.values()))[:2])


def _decreasing(given: list[tuple[Pair, Op]]) -> tuple[dict[str, Any], list[Op]]:
    events = sorted(
        [(pair.invoke.index, False, n) for n, (pair, _op) in enumerate(given)]
        + [(op.index, True, n) for n, (_pair, op) in enumerate(given)]
    )
    greatest: tuple[Pair, Op] | None = None  # the greatest id completed so far
    before: dict[int, tuple[Pair, Op] | None] = {}
    wrong: list[tuple[tuple[Pair, Op], tuple[Pair, Op]]] = []
    for _index, is_completion, n in events:
        if not is_completion:
            before[n] = greatest
            continue
        earlier, op = before.pop(n), given[n][1]
        if earlier is not None and op.value < earlier[1].value:
            wrong.append((earlier, given[n]))
        if greatest is None or op.value > greatest[1].value:
            greatest = given[n]
    if not wrong:
        return {}, []
    texts = [
        f"op {later[1].index} got {later[1].value}, though op {earlier[1].index} had got {earlier[1].value} before"
        f" op {later[0].invoke.index} began it"
        for earlier, later in wrong[:EXPLAINED_MAX]
    ]
    return {"not-increasing": texts}, _ops(wrong[0])


def _ops(found: list[tuple[Pair, Op]] | tuple[tuple[Pair, Op], ...]) -> list[Op]:
    return sorted(
        (op for pair, completion in found for op in (pair.invoke, completion)), key=lambda op: op.index
    )


def _verdict(
    checker: str, given: list[tuple[Pair, Op]], details: dict[str, Any], counterexample: list[Op]
) -> Verdict:
    if not details:
        return Verdict(
            checker, True, f"{len(given)} ids, none twice" + (", growing" * (checker == "sequence"))
        )
    return Verdict(checker, False, f"{', '.join(details)} among {len(given)} ids", details, counterexample)
