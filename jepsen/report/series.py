"""Numbers behind the pictures: fault intervals, completions, rates, latency quantiles. Draws nothing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from jepsen.checkers.availability import fault_windows
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
    """The faults that lasted; one that was never stopped lasts to the end."""
    return [
        Fault(
            window.name,
            window.begin_ns / NS,
            end_of(history) if window.end_ns is None else window.end_ns / NS,
        )
        for window in fault_windows(history)
        if window.end_ns != window.begin_ns
    ]


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
    """Per quantile one (middle, latency) per window; nan for a window without successful operations."""
    width = end_s / windows
    groups: dict[int, list[float]] = defaultdict(list)
    for point in points:
        if point.outcome is OpType.OK:
            groups[min(windows - 1, int(point.start_s / width))].append(point.latency_s)
    curves: dict[float, list[tuple[float, float]]] = {quantile: [] for quantile in QUANTILES}
    for position in range(windows):
        ordered = sorted(groups[position])
        for quantile in QUANTILES:
            found = ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else math.nan
            curves[quantile].append(((position + 0.5) * width, found))
    return curves
