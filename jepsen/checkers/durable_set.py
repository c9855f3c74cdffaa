"""Sets: what was added stays. Every element's fate, from the reads of the whole set.

An element is known from the first event that proves it: its add's acknowledgement, or the end of a read that holds it.
Absent from a read that began later, it is stale if still later reads hold it again, and lost if none does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from jepsen.checkers.plain import are_hashable, note_add
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType, Pair
from jepsen.verdict import Verdict

CHECKER: Final = "set"
SHOWN_MAX: Final = 100  # elements listed per outcome
QUANTILES: Final = (0.0, 0.5, 0.95, 0.99, 1.0)

Element = Hashable


@dataclass(frozen=True, slots=True)
class _Read:
    invoke: Op
    op: Op
    elements: list[Element]


@dataclass(frozen=True, slots=True)
class _Stale:
    element: Element
    known: tuple[Op, Op]  # what proved it: an invocation and its completion
    absent: _Read
    present: _Read | None  # the latest read that held it
    latency_ns: int


def check_durable_set(history: History, *, linearizable: bool = True) -> Verdict:
    """Find lost, stale, unexpected and duplicated elements among `add` and `read` operations.

    `linearizable`: reads promise to hold everything acknowledged before they began, so that a stale element makes the
    history invalid; False: staleness is only reported. `details`: lists `lost`, `stale`, `unexpected` (read, but never
    added, or its add failed), `duplicated`, `recovered` (outcome unknown, but read), `never-read` (neither seen nor
    missed by a read that began after it was known); counts of `attempted`, `acknowledged`, `stable`, `reads`;
    `stable-latency-ms` and `lost-latency-ms`: quantiles of the time from known to the last read that missed it.
    `counterexample`: an add with the reads that show its fate (or the read that shows the surplus). `valid` None: no
    element was ever read and none is lost.

    Raises HistoryError for an add without an element, a second add of an element, a read that is no list: naming the
    index.
    """
    adds, reads = _parse(history)
    last_present, last_absent, known = _sightings(adds, reads)
    lost: list[_Stale] = []
    stale: list[_Stale] = []
    stable: list[Element] = []
    never: list[Element] = []
    latencies: list[int] = []
    for element, pair in adds.items():
        if pair.type is OpType.FAIL:
            continue
        present, absent, proof = last_present.get(element), last_absent.get(element), known.get(element)
        missed: _Stale | None = None
        if absent is not None and proof is not None and proof[1].index < absent.invoke.index:
            missed = _Stale(element, proof, absent, present, max(0, absent.invoke.time - proof[1].time))
        if present is not None and (absent is None or absent.invoke.index < present.invoke.index):
            stable.append(element)
            latencies.append(missed.latency_ns if missed else 0)
            if missed:
                stale.append(missed)
        elif missed is not None:
            lost.append(missed)
        elif present is None:
            never.append(element)
    surplus, duplicated = _surplus(adds, reads)
    details = {
        "attempted": len(adds),
        "acknowledged": sum(pair.type is OpType.OK for pair in adds.values()),
        "stable": len(stable),
        "reads": len(reads),
        "lost": _shown(one.element for one in lost),
        "stale": _shown(one.element for one in sorted(stale, key=lambda one: -one.latency_ns)),
        "unexpected": _shown(surplus),
        "duplicated": _shown(duplicated),
        "recovered": _shown(element for element in last_present if adds[element].type is OpType.INFO),
        "never-read": _shown(never),
        "stable-latency-ms": _quantiles(latencies),
        "lost-latency-ms": _quantiles([one.latency_ns for one in lost]),
    }
    problems: dict[str, int] = {"lost": len(lost), "unexpected": len(surplus), "duplicated": len(duplicated)}
    if linearizable:
        problems["stale"] = len(stale)
    wrong = [f"{count} {name}" for name, count in problems.items() if count]
    scope = f"{len(adds)} elements ({details['acknowledged']} acknowledged) and {len(reads)} reads"
    if wrong:
        example = _example(
            [*lost, *(stale if linearizable else [])], [*surplus.values(), *duplicated.values()], adds
        )
        return Verdict(CHECKER, False, f"{', '.join(wrong)} among {scope}", details, example)
    if not stable:
        return Verdict(CHECKER, None, f"no element was read: {scope}", details)
    return Verdict(CHECKER, True, f"nothing lost among {scope}", details)


def _parse(history: History) -> tuple[dict[Element, Pair], list[_Read]]:
    adds: dict[Element, Pair] = {}
    reads: list[_Read] = []
    for pair in history.pairs():
        if pair.invoke.f == "add":
            note_add(adds, pair, "each element added once")
        elif pair.invoke.f == "read":
            op = pair.completion
            if op is None or op.type is not OpType.OK:
                continue
            if not isinstance(op.value, list | tuple | set | frozenset) or not are_hashable(op.value):
                raise HistoryError(
                    f"op {op.index} reads {op.value!r}", expected="a list of the set's elements"
                )
            reads.append(_Read(pair.invoke, op, list(op.value)))
        else:
            raise HistoryError(
                f"op {pair.invoke.index} is {pair.invoke.f!r}",
                expected='"add" or "read" in a history of a set',
            )
    return adds, reads


def _sightings(
    adds: dict[Element, Pair], reads: list[_Read]
) -> tuple[dict[Element, _Read], dict[Element, _Read], dict[Element, tuple[Op, Op]]]:
    """Per element: the latest begun read that holds it, the latest begun that misses it, and what first proves it.

    A read can miss an element only if the add began before the read ended. Each pass shrinks a set of undecided
    elements, so that long histories cost set operations, not a loop over elements times reads.
    """
    last_present: dict[Element, _Read] = {}
    last_absent: dict[Element, _Read] = {}
    by_begin = sorted(reads, key=lambda read: read.invoke.index)
    ends = list(
        accumulate((read.op.index for read in by_begin), max)
    )  # the latest end of this and all earlier reads
    newest = sorted(adds, key=lambda element: adds[element].invoke.index)
    unseen, unmissed = set(adds), set(adds)
    while by_begin:
        read, end = by_begin.pop(), ends.pop()
        while newest and adds[newest[-1]].invoke.index > end:
            unmissed.discard(newest.pop())  # no read that is left could have seen it
        elements = set(read.elements)
        for element in unseen & elements:
            last_present[element] = read
        unseen -= elements
        for element in unmissed - elements:
            if adds[element].invoke.index < read.op.index:
                last_absent[element] = read
                unmissed.discard(element)
    known = {
        element: (pair.invoke, pair.completion)
        for element, pair in adds.items()
        if pair.completion is not None and pair.type is OpType.OK
    }
    unproven = set(adds)
    for read in sorted(reads, key=lambda read: read.op.index):
        for element in unproven.intersection(read.elements):
            unproven.discard(element)
            if element not in known or read.op.index < known[element][1].index:
                known[element] = read.invoke, read.op
    return last_present, last_absent, known


def _surplus(
    adds: dict[Element, Pair], reads: list[_Read]
) -> tuple[dict[Element, _Read], dict[Element, _Read]]:
    """Elements that should not be there, and those that are there twice, each with the first read that shows it."""
    possible = {element for element, pair in adds.items() if pair.type is not OpType.FAIL}
    surplus: dict[Element, _Read] = {}
    duplicated: dict[Element, _Read] = {}
    for read in reads:
        distinct = set(read.elements)
        for element in sorted(distinct - possible, key=str):
            surplus.setdefault(element, read)
        if len(distinct) < len(read.elements):
            for element, count in Counter(read.elements).items():
                if count > 1:
                    duplicated.setdefault(element, read)
    return surplus, duplicated


def _example(missing: list[_Stale], surplus: list[_Read], adds: dict[Element, Pair]) -> list[Op]:
    if missing:
        worst = missing[0]
        pair = adds[worst.element]
        ops = [pair.invoke, pair.completion, *worst.known, worst.absent.invoke, worst.absent.op]
        if worst.present is not None:
            ops += [worst.present.invoke, worst.present.op]
    else:
        ops = [surplus[0].invoke, surplus[0].op]
    return [op for _index, op in sorted({op.index: op for op in ops if op is not None}.items())]


def _shown(elements: Iterable[Element]) -> list[Any]:
    found = list(elements)
    if len(found) <= SHOWN_MAX:
        return found
    return [*found[:SHOWN_MAX], f"… and {len(found) - SHOWN_MAX} more"]


def _quantiles(latencies_ns: list[int]) -> dict[str, float]:
    ordered = sorted(latencies_ns)
    if not ordered:
        return {}
    return {str(q): ordered[min(len(ordered) - 1, int(q * len(ordered)))] / 1e6 for q in QUANTILES}
