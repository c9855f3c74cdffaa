"""From a finished run's history to its verdicts: the workload's checkers, and those that every run gets."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from jepsen.checkers.availability import check_availability
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.run.clients import CLIENT_ERROR
from jepsen.verdict import Verdict

# What no fault of the suite may bring out of a node: broken invariants, crashes, mistakes of the program.
_BAD_LOG: Final = re.compile(
    r"AssertionError|Invariant ?Broken|invariant broken|Fatal Python error|Segmentation fault|MemoryError"
    r"|failed unexpectedly|callback (of the transport )?failed|handling a message of node|background task failed"
)
# Replicas that differed: only damage of a database file may bring it about.
_DIVERGED: Final = re.compile(r"quarantined|state differs")
DAMAGING: Final = ("corrupt-database", "mixed")
_LINES_MAX: Final = 20
SERVES_AGAIN_S: Final = 30.0  # after the last event of the nemesis
_TRIES_MIN: Final = 10  # fewer may all have fallen into one fault


def count(history: History) -> dict[str, dict[str, int]]:
    """f -> {"ok": …, "fail": …, "info": …} of the client operations."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in history.pairs():
        counts[pair.invoke.f][pair.type.value] += 1
    return {f: {kind: counts[f][kind] for kind in ("ok", "fail", "info")} for f in sorted(counts)}


def judge(check: Callable[[History], list[Verdict]], history: History) -> list[Verdict]:
    """The workload's verdicts and the general ones; a checker that raises gives an unknown verdict."""
    try:
        verdicts = check(history)
    except Exception as error:  # noqa: BLE001 - a checker's mistake must not look like a pass
        verdicts = [Verdict("checker", None, f"the checker itself failed: {type(error).__name__}: {error}")]
    try:
        verdicts.append(check_availability(history, recovers_within_s=SERVES_AGAIN_S))
    except HistoryError as error:
        verdicts.append(Verdict("availability", None, str(error)))
    return [*verdicts, check_progress(history), check_client_errors(history)]


def check_progress(history: History) -> Verdict:
    """A run in which some kind of operation never succeeded proves nothing about it: unknown, not passed."""
    counts = count(history)
    details = {"operations": counts}
    if not counts:
        return Verdict("progress", None, "no operation was issued", details)
    if not any(kinds["ok"] for kinds in counts.values()):
        return Verdict("progress", None, "no operation succeeded: the run proves nothing", details)
    silent = [f for f, kinds in counts.items() if not kinds["ok"] and sum(kinds.values()) >= _TRIES_MIN]
    if silent:
        return Verdict("progress", None, f"no {' and no '.join(silent)} ever succeeded", details)
    total = sum(sum(kinds.values()) for kinds in counts.values())
    ok = sum(kinds["ok"] for kinds in counts.values())
    return Verdict("progress", True, f"{ok} of {total} operations succeeded", details)


def check_client_errors(history: History) -> Verdict:
    """Errors that a client must never see: neither a refusal nor an unknown outcome of the cluster's."""
    strange = [op for op in history.clients() if op.error and op.error.startswith(CLIENT_ERROR)]
    if not strange:
        return Verdict("client-errors", True, "every error was one that the clients know")
    kinds = Counter(op.error or "" for op in strange)
    summary = f"{len(strange)} unexpected errors in clients, first: {strange[0].error}"
    return Verdict(
        "client-errors", False, summary, {"errors": dict(kinds.most_common(_LINES_MAX))}, strange[:1]
    )


def check_logs(logs: Iterable[Path], nemesis: str) -> Verdict:
    """No node may log a broken invariant, die of a programming mistake, or differ from the others undamaged."""
    found: list[str] = []
    for path in logs:
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue
        for line in text.splitlines():
            if _BAD_LOG.search(line) or (nemesis not in DAMAGING and _DIVERGED.search(line)):
                found.append(f"{path.name}: {line.strip()[:300]}")
    if not found:
        return Verdict("node-logs", True, "no broken invariant and no crash in the nodes' logs")
    return Verdict(
        "node-logs", False, f"{len(found)} alarming lines, first: {found[0]}", {"lines": found[:_LINES_MAX]}
    )
