"""Judge a list-append history: parse, infer versions, search for cycles, put it in words."""

from __future__ import annotations

from typing import Final

from jepsen.checkers.elle.anomalies import MODELS, Finding, Model
from jepsen.checkers.elle.cycles import Cycle, Cycles, classify, find_cycles
from jepsen.checkers.elle.dependencies import Dependencies
from jepsen.checkers.elle.explain import explain
from jepsen.checkers.elle.graph import PROCESS, RW, WR, WW
from jepsen.checkers.elle.transactions import Transactions, read_transactions
from jepsen.checkers.elle.versions import infer_versions
from jepsen.history.history import History
from jepsen.history.op import Op
from jepsen.verdict import Verdict

CHECKER: Final = "append"
STEPS_SHOWN: Final = 12  # of a long cycle
EXPLAINED_MAX: Final = 8  # explanations per anomaly; the rest is counted


def check_append(history: History, *, model: Model = "strict-serializable") -> Verdict:
    """Look for anomalies that `model` forbids in a history of list-append transactions.

    Operation values: lists of `[:append key value]` and `[:r key nil]`; a read's completion holds the list. Appended
    values are unique per key. `details`: anomaly name -> explanations, most severe first, the smallest case first.
    `counterexample`: invocations and completions of the smallest cycle (or of the smallest case, when there is no
    cycle) with the reads that prove its version order. `valid` None: nothing was committed, no list was read, or
    the search for cycles ran out of its budget without finding one.

    Transactions of unknown outcome count as happened only if a committed one read an append of theirs; what they
    themselves read is never used. Source: Kingsbury and Alvaro, "Elle", VLDB 2020.

    Raises HistoryError for a malformed history, naming the operation's index; ValueError for an unknown model.
    """
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}: use one of {', '.join(MODELS)}")
    transactions = read_transactions(history)
    versions = infer_versions(transactions)
    dependencies = Dependencies(transactions, versions)
    cycles = find_cycles(
        dependencies, allows_g2=model == "snapshot-isolation", with_order=model == "strict-serializable"
    )
    findings = versions.findings + [
        cycle_finding(cycle, dependencies) for found in cycles.found.values() for cycle in found
    ]
    return _verdict(transactions, sorted(findings, key=_weight), cycles, model)


def cycle_finding(cycle: Cycle, dependencies: Dependencies) -> Finding:
    """Put a cycle in words: what ties each transaction to the next, back to the first."""
    parts: list[str] = []
    witnesses: dict[int, None] = {}
    count = len(cycle)
    for i, edge in enumerate(cycle):
        a, b = f"{{{i}}}", f"{{{(i + 1) % count}}}"
        if edge.kind not in (WW, WR, RW):
            how = "in the same process" if edge.kind == PROCESS else "in real time"
            parts.append(f"{a} completed before {b} began, {how}")
            continue
        evidence = dependencies.evidence[edge.a, edge.b, edge.kind]
        if edge.kind == WR:
            parts.append(f"{a} appended {evidence.before} to key {evidence.key}, which {b} read")
        elif edge.kind == RW:
            state = "nothing" if evidence.before is None else f"up to {evidence.before}"
            parts.append(
                f"{a} read key {evidence.key} ({state}) and did not see {b}'s append of {evidence.after}"
            )
        else:
            order = "; reads that show it never show" if evidence.is_unseen else ", and then came"
            parts.append(
                f"{a} appended {evidence.before} to key {evidence.key}{order} {b}'s append of {evidence.after}"
            )
            if evidence.witness is not None:
                witnesses[evidence.witness] = None
    numbers = tuple(edge.a for edge in cycle)
    if len(parts) > STEPS_SHOWN:
        parts[STEPS_SHOWN // 2 : -STEPS_SHOWN // 2] = [f"… {len(parts) - STEPS_SHOWN} more steps …"]
    text = "; ".join(parts) + ": each comes before itself"
    return Finding(classify(cycle), text, numbers, tuple(w for w in witnesses if w not in numbers))


def _weight(finding: Finding) -> tuple[tuple[int, str], int]:
    return finding.rank, len(finding.transactions)


def _verdict(transactions: Transactions, findings: list[Finding], cycles: Cycles, model: str) -> Verdict:
    committed = sum(t.is_committed for t in transactions.all)
    scope = f"{len(transactions.all)} transactions ({committed} committed), {model}"
    if findings:
        by_name: dict[str, list[Finding]] = {}
        for finding in findings:
            by_name.setdefault(finding.name, []).append(finding)
        details = {name: _explanations(found, transactions) for name, found in by_name.items()}
        counts = ", ".join(
            f"{name} ({len(found)})" if len(found) > 1 else name for name, found in by_name.items()
        )
        of_cycles = [finding for finding in findings if finding.name in cycles.found]
        smallest = min(of_cycles or findings, key=lambda finding: len(finding.transactions))
        return Verdict(CHECKER, False, f"{counts} in {scope}", details, _operations(smallest, transactions))
    if not cycles.is_complete:
        return Verdict(CHECKER, None, f"the search for cycles ran out of its budget: {scope}")
    if not committed:
        return Verdict(CHECKER, None, f"nothing was committed: {scope}")
    if not any(t.is_committed and not micro.is_append for t in transactions.all for micro in t.micros):
        return Verdict(CHECKER, None, f"no list was read: {scope}")
    return Verdict(CHECKER, True, f"no anomaly in {scope}")


def _explanations(findings: list[Finding], transactions: Transactions) -> list[str]:
    texts = [explain(finding, transactions.all) for finding in findings[:EXPLAINED_MAX]]
    if len(findings) > EXPLAINED_MAX:
        texts.append(f"and {len(findings) - EXPLAINED_MAX} more")
    return texts


def _operations(finding: Finding, transactions: Transactions) -> list[Op]:
    ops: dict[int, Op] = {}
    for number in (*finding.transactions, *finding.witnesses):
        pair = transactions.all[number].pair
        for op in (pair.invoke, pair.completion):
            if op is not None:
                ops[op.index] = op
    return [ops[index] for index in sorted(ops)]
