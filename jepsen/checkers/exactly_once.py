"""Exactly-once adds: a retried operation takes effect once, or not at all if it failed. Multiplicity counts.

The client retries under one logical operation: the history holds one invocation and one completion for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any, Final

from jepsen.checkers.plain import are_hashable, note_add
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType, Pair
from jepsen.verdict import Verdict

CHECKER: Final = "exactly-once"
SHOWN_MAX: Final = 100


def check_exactly_once(history: History) -> Verdict:
    """Count each added element in the reads (lists with multiplicity).

    In the last-begun completed read: acknowledged before it began: exactly once; failed: never; unknown outcome or
    concurrent with the read: at most once. In every read: never twice. `details`: lists `repeated`, `missing`,
    `applied-but-failed`, `unexpected` (never added), `recovered` (unknown outcome, but there), and counts.
    `counterexample`: the read and the adds of the first bad element. `valid` None: no completed read, or no add.

    Raises HistoryError for an add without an element, a second add of an element, a read that is no list: naming the
    index.
    """
    adds, reads = _parse(history)
    scope = f"{len(adds)} adds ({sum(p.type is OpType.OK for p in adds.values())} acknowledged) and {len(reads)} reads"
    if not reads:
        return Verdict(CHECKER, None, f"nothing to judge in {scope}")
    final = max(reads, key=lambda pair: pair.invoke.index)
    counts = Counter(_elements(final))
    bad: dict[str, dict[Hashable, Pair]] = {
        "repeated": {},
        "missing": {},
        "applied-but-failed": {},
        "unexpected": {},
    }
    for read in reads:
        for element, count in Counter(_elements(read)).items():
            pair = adds.get(element)
            if count > 1:
                bad["repeated"].setdefault(element, read)
            if pair is None:
                bad["unexpected"].setdefault(element, read)
            elif pair.type is OpType.FAIL:
                bad["applied-but-failed"].setdefault(element, read)
    for element, pair in adds.items():
        done = pair.completion
        if done and done.type is OpType.OK and done.index < final.invoke.index and not counts[element]:
            bad["missing"][element] = final
    recovered = [element for element in counts if element in adds and adds[element].type is OpType.INFO]
    details: dict[str, Any] = {name: _shown(list(found)) for name, found in bad.items()}
    details |= {"recovered": _shown(recovered), "attempted": len(adds), "reads": len(reads)}
    wrong = {name: found for name, found in bad.items() if found}
    if not wrong:
        return Verdict(CHECKER, True if adds else None, f"each once in {scope}", details)
    element, read = next(iter(next(iter(wrong.values())).items()))
    ops = [read.invoke, read.completion]
    if element in adds:
        ops += [adds[element].invoke, adds[element].completion]
    example: list[Op] = sorted((op for op in ops if op is not None), key=lambda op: op.index)
    names = ", ".join(f"{len(found)} {name}" for name, found in wrong.items())
    return Verdict(CHECKER, False, f"{names} in {scope}", details, example)


def _parse(history: History) -> tuple[dict[Hashable, Pair], list[Pair]]:
    adds: dict[Hashable, Pair] = {}
    reads: list[Pair] = []
    for pair in history.pairs():
        if pair.invoke.f == "add":
            note_add(adds, pair, "each element added by one logical operation, retries inside it")
        elif pair.invoke.f == "read":
            if pair.type is OpType.OK:
                _elements(pair)
                reads.append(pair)
        else:
            raise HistoryError(f"op {pair.invoke.index} is {pair.invoke.f!r}", expected='"add" or "read"')
    return adds, reads


def _elements(read: Pair) -> list[Hashable]:
    op = read.completion
    assert op is not None
    if not isinstance(op.value, list | tuple) or not are_hashable(op.value):
        raise HistoryError(
            f"op {op.index} reads {op.value!r}", expected="a list of elements, each as often as it is there"
        )
    return list(op.value)


def _shown(elements: list[Hashable]) -> list[Any]:
    if len(elements) <= SHOWN_MAX:
        return list(elements)
    return [*elements[:SHOWN_MAX], f"… and {len(elements) - SHOWN_MAX} more"]
