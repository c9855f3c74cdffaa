"""What one measurement yields, and the arithmetic on it: percentiles, open-loop latency, medians of rounds. Pure."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SHARES = (0.5, 0.9, 0.99, 0.999)
CURVE_SHARES = (*(i / 100 for i in range(0, 100, 2)), 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0)
BUSY = "BUSY"
LOST = "lost its leadership during the measurement"  # note of a sample


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that at least `share` of all values do not exceed. NaN of nothing."""
    return ranked(sorted(values), share)


def ranked(ordered: Sequence[float], share: float) -> float:
    """`percentile` of values that are in order already."""
    if not ordered:
        return float("nan")
    rank = math.ceil(share * len(ordered) - 1e-9)  # 0.07 * 100 is a little more than 7
    return ordered[min(len(ordered), max(1, rank)) - 1]


@dataclass(slots=True)
class Tally:
    """What one caller, or many merged, saw inside the window."""

    ms: array[float] = field(default_factory=lambda: array("d"))
    done: int = 0  # operations that ended inside the window
    errors: Counter[str] = field(default_factory=Counter)
    unserved: int = 0  # open loop: arrivals that were due and never began

    def merge(self, other: Tally) -> None:
        self.ms.extend(other.ms)
        self.done += other.done
        self.errors.update(other.errors)
        self.unserved += other.unserved

    def packed(self) -> tuple[bytes, int, dict[str, int], int]:
        return self.ms.tobytes(), self.done, dict(self.errors), self.unserved

    @classmethod
    def unpacked(cls, packed: tuple[bytes, int, dict[str, int], int]) -> Tally:
        ms = array("d")
        ms.frombytes(packed[0])
        return cls(ms, packed[1], Counter(packed[2]), packed[3])


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open [start_s, end_s) on the monotonic clock, which all processes of a machine share."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def holds(self, moment_s: float) -> bool:
        return self.start_s <= moment_s < self.end_s


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. Per-operation values are None where they could not be measured: nothing is invented."""

    driver: str
    workload: str
    clients: int
    nodes: int
    seconds: float
    rate: float  # successful operations per second
    rows_per_op: int = 1
    p50: float = float("nan")  # ms, like the next three
    p90: float = float("nan")
    p99: float = float("nan")
    p999: float = float("nan")
    errors: dict[str, int] = field(default_factory=dict)
    cpu_us: float | None = None  # of all node processes, per operation
    cpu_leader_us: float | None = None
    write_bytes: float | None = None  # per operation and node (mean of the nodes)
    fsyncs: float | None = None  # per operation, all nodes together
    fdatasync_ms: float | None = None  # of the machine, measured just before
    offered: float | None = None  # open loop: arrivals per second
    unserved: int = 0
    note: str = ""
    curve: list[float] = field(default_factory=list)  # ms at CURVE_SHARES
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def rows_rate(self) -> float:
        return self.rate * self.rows_per_op

    def with_place(self, place: dict[str, Any]) -> Sample:
        return replace(self, **place)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summary(tally: Tally, seconds: float) -> dict[str, Any]:
    """The fields of Sample that come from latencies."""
    ordered = sorted(tally.ms)
    names = ("p50", "p90", "p99", "p999")
    fields: dict[str, Any] = {name: ranked(ordered, share) for name, share in zip(names, SHARES, strict=True)}
    fields["curve"] = [ranked(ordered, share) for share in CURVE_SHARES] if ordered else []
    fields["rate"] = tally.done / seconds
    fields["errors"] = dict(tally.errors)
    fields["unserved"] = tally.unserved
    return fields


def due_s(start_s: float, rate: float, number: int) -> float:
    """When arrival `number` of an open loop is due. Latency counts from here, however late it began."""
    return start_s + number / rate


def median_of(samples: Sequence[Sample], name: str) -> float:
    """Median over rounds of one field; NaN when no round measured it."""
    values = [getattr(sample, name) for sample in samples]
    known = [value for value in values if value is not None and value == value]
    return statistics.median(known) if known else float("nan")


def growth(values: Sequence[float]) -> float:
    """Median of the last quarter to that of the second quarter (the first warms up). NaN of fewer than 8."""
    if len(values) < 8:
        return float("nan")
    quarter = len(values) // 4
    return statistics.median(values[-quarter:]) / statistics.median(values[quarter : 2 * quarter])


def worst_fall(values: Sequence[float]) -> float:
    """Smallest ratio of a value to the best value before it: 1 or more when the series never falls."""
    best, worst = 0.0, float("inf")
    for value in values:
        if best > 0:
            worst = min(worst, value / best)
        best = max(best, value)
    return worst
