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
from jepsen.history.op import OpType
from jepsen.run.clients import CLIENT_ERROR
from jepsen.verdict import Verdict

# What no fault of the suite may bring out of a node: broken invariants, crashes, mistakes of the program.
_BAD_LOG: Final = re.compile(
    r"AssertionError|Invariant ?Broken|invariant broken|Fatal Python error|Segmentation fault|MemoryError"
    r"|failed unexpectedly|callback (of the transport )?failed|handling a message of node|background task failed"
)
# A node that meets a disk error may print one.
_TRACEBACK: Final = re.compile(r"Traceback \(most recent call last\)")
# Replicas that differed: only damage of a database file may bring it about.
_DIVERGED: Final = re.compile(r"quarantined|state differs")
_LINES_MAX: Final = 20
SERVES_AGAIN_S: Final = 30.0  # after the last event of the nemesis
FAULT_S_MIN: Final = 10.0  # of faults, in which a majority that is there must serve once
_TRIES_MIN: Final = 10  # fewer may all have fallen into one fault
_OK_SHARE_MIN: Final = 0.02  # of the planned operations


def count(history: History) -> dict[str, dict[str, int]]:
    """f -> {"ok": …, "fail": …, "info": …} of the client operations."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in history.pairs():
        counts[pair.invoke.f][pair.type.value] += 1
    return {f: {kind: counts[f][kind] for kind in ("ok", "fail", "info")} for f in sorted(counts)}


def judge(
    check: Callable[[History], list[Verdict]],
    history: History,
    *,
    planned: float = 0.0,
    must_serve: bool = False,
) -> list[Verdict]:
    """The workload's verdicts and the general ones; a checker that raises gives an unknown verdict.

    `planned`: how many operations the clients wanted to issue; `must_serve`: no fault took the majority away.
    """
    try:
        verdicts = check(history) or [Verdict("checker", None, "no checker judged the history")]
    except Exception as error:  # noqa: BLE001 - a checker's mistake must not look like a pass
        verdicts = [Verdict("checker", None, f"the checker itself failed: {type(error).__name__}: {error}")]
    try:
        availability = check_availability(history, recovers_within_s=SERVES_AGAIN_S)
        verdicts.append(availability)
        if must_serve:
            verdicts.append(check_service(availability))
    except HistoryError as error:
        verdicts.append(Verdict("availability", None, str(error)))
    return [*verdicts, check_progress(history, planned), check_client_errors(history)]


def leaves_majority(nodes: int) -> bool:
    """Whether the nemeses that spare a majority do so in a cluster of this size (halves of four are none)."""
    return nodes >= 3 and nodes % 2 == 1


def check_service(availability: Verdict) -> Verdict:
    """While faults that leave a majority were in force, some operation must have succeeded."""
    windows = [window for window in availability.details.get("windows", []) if window["faults"]]
    seconds = sum(window["to"] - window["from"] for window in windows)
    tries = sum(window[str(kind)] for window in windows for kind in OpType if str(kind) in window)
    ok = sum(window["ok"] for window in windows)
    details = {"seconds": seconds, "operations": tries, "ok": ok}
    if not ok and seconds >= FAULT_S_MIN and tries >= _TRIES_MIN:
        summary = f"none of {tries} operations in {seconds:.1f} s of faults succeeded: a majority was there"
        return Verdict("service", False, summary, details)
    return Verdict("service", True, f"{ok} of {tries} succeeded in {seconds:.1f} s of faults", details)


def check_progress(history: History, planned: float = 0.0) -> Verdict:
    """A run in which some kind of operation never succeeded, or hardly any did, proves nothing: unknown, not passed."""
    counts = count(history)
    details = {"operations": counts, "planned": planned}
    if not counts:
        return Verdict("progress", None, "no operation was issued", details)
    ok = sum(kinds["ok"] for kinds in counts.values())
    if not ok:
        return Verdict("progress", None, "no operation succeeded: the run proves nothing", details)
    silent = [f for f, kinds in counts.items() if not kinds["ok"] and sum(kinds.values()) >= _TRIES_MIN]
    if silent:
        return Verdict("progress", None, f"no {' and no '.join(silent)} ever succeeded", details)
    if ok < planned * _OK_SHARE_MIN:
        summary = (
            f"only {ok} operations succeeded where {planned:.0f} were planned: too few to prove anything"
        )
        return Verdict("progress", None, summary, details)
    total = sum(sum(kinds.values()) for kinds in counts.values())
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


def check_logs(logs: Iterable[Path], *, may_differ: bool = False, may_fail: bool = False) -> Verdict:
    """No node may log a broken invariant, die of a programming mistake, or differ from the others undamaged.

    `may_differ`: a database was damaged on purpose; `may_fail`: nodes may end by themselves under this nemesis.
    """
    patterns = [_BAD_LOG, *([] if may_differ else [_DIVERGED]), *([] if may_fail else [_TRACEBACK])]
    found: list[str] = []
    missing: list[str] = []
    for path in logs:
        try:
            text = path.read_text("utf-8", "replace")
        except OSError as error:
            missing.append(f"{path.name}: {error.strerror}")
            continue
        for line in text.splitlines():
            if any(pattern.search(line) for pattern in patterns):
                found.append(f"{path.name}: {line.strip()[:300]}")
    if found:
        summary = f"{len(found)} alarming lines, first: {found[0]}"
        return Verdict("node-logs", False, summary, {"lines": found[:_LINES_MAX]})
    if missing:
        return Verdict("node-logs", None, f"cannot be read: {', '.join(missing)}")
    return Verdict("node-logs", True, "no broken invariant and no crash in the nodes' logs")
