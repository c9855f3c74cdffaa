"""Numbers behind the pictures: fault intervals, completions, rates, latency quantiles. Draws nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from jepsen.history.history import History
from jepsen.history.op import OpType

NS = 1e9
OUTCOMES = (OpType.OK, OpType.FAIL, OpType.INFO)
QUANTILES = (0.5, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its name and when it was in force, in seconds since the run began."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Point:
    """One finished operation: when it was invoked and how long it took, in seconds."""

    f: str
    outcome: OpType
    start_s: float
    latency_s: float


def end_of(history: History) -> float:
    """Seconds from the run's begin to its last event; never 0."""
    return max((op.time / NS for op in history), default=0.0) or 1.0


def faults_of(history: History) -> list[Fault]:
    """Pairs of nemesis events `start-x` and `stop-x` (or `final-x`, or the end)."""
    begun: dict[str, float] = {}
    faults: list[Fault] = []
    for op in history.nemesis():
        step, _, name = op.f.partition("-")
        failed = isinstance(op.value, dict) and "error" in op.value
        if step == "start" and not failed:
            begun.setdefault(name, op.time / NS)
        elif name in begun and (step == "final" or (step == "stop" and not failed)):
            faults.append(Fault(name, begun.pop(name), op.time / NS))
    faults += [Fault(name, start, end_of(history)) for name, start in begun.items()]
    return sorted(faults, key=lambda fault: fault.start_s)


def points_of(history: History) -> list[Point]:
    """Every client operation; one without a completion lasts until the end of the history."""
    end_ns = max((op.time for op in history), default=0)
    return [
        Point(
            pair.invoke.f,
            pair.type,
            pair.invoke.time / NS,
            ((pair.completion.time if pair.completion else end_ns) - pair.invoke.time) / NS,
        )
        for pair in history.pairs()
    ]


Rates = dict[tuple[str, OpType], list[float]]  # per (f, outcome), one rate per window


def rates(points: Sequence[Point], end_s: float, windows: int) -> tuple[list[float], Rates]:
    """Completions per second in `windows` equal windows: their middles, and per (f, outcome) the rates."""
    width = end_s / windows
    counts: dict[tuple[str, OpType], list[float]] = defaultdict(lambda: [0.0] * windows)
    for point in points:
        position = min(windows - 1, max(0, int((point.start_s + point.latency_s) / width)))
        counts[point.f, point.outcome][position] += 1 / width
    return [(position + 0.5) * width for position in range(windows)], dict(sorted(counts.items()))


def quantiles(points: Sequence[Point], end_s: float, windows: int) -> dict[float, list[tuple[float, float]]]:
    """Per quantile the (middle, latency) of the windows that have successful operations."""
    width = end_s / windows
    groups: dict[int, list[float]] = defaultdict(list)
    for point in points:
        if point.outcome is OpType.OK:
            groups[min(windows - 1, int(point.start_s / width))].append(point.latency_s)
    curves: dict[float, list[tuple[float, float]]] = {quantile: [] for quantile in QUANTILES}
    for position in sorted(groups):
        ordered = sorted(groups[position])
        for quantile in QUANTILES:
            found = ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
            curves[quantile].append(((position + 0.5) * width, found))
    return curves
