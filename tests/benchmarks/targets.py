"""The speed and memory that must be reached, judged from the samples of one run. Pure.

Ratios compare medians over the rounds of one run. What was not measured in this run has no verdict.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.benchmarks.groups.targets import BYTES, READERS, ROUNDS, SCALING, SPREAD
from tests.benchmarks.measures import BUSY, Sample, growth, median_of, worst_fall
from tests.benchmarks.session import Session

FALL_TOLERANCE = 0.9  # repeated measurements of one point differ by this much on a busy machine
FLAT_TOLERANCE = 1.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table; a NaN `value` was not measured."""

    name: str
    value: float
    unit: str
    bound: float
    is_upper: bool  # the bound is a maximum
    detail: str = ""

    @property
    def is_measured(self) -> bool:
        return not math.isnan(self.value)

    @property
    def is_met(self) -> bool:
        return self.value <= self.bound if self.is_upper else self.value >= self.bound

    @property
    def word(self) -> str:
        if not self.is_measured:
            return "not measured"
        return "met" if self.is_met else "MISSED"


def ratio(ours: float, theirs: float) -> float:
    """NaN when one of them is unknown or nothing."""
    return ours / theirs if theirs and not math.isnan(theirs) else float("nan")


def judge(session: Session) -> list[Verdict]:
    """All targets, in the issue's order."""
    rows: list[Verdict] = []
    for part in (_writers, _throughput, _apply, _reads, _memory):
        rows += part(session)
    return rows


def _median(samples: Sequence[Sample], name: str = "rate") -> float:
    return median_of(samples, name)


def _finder(session: Session, group: str) -> Callable[..., list[Sample]]:
    def find(driver: str, workload: str, clients: int) -> list[Sample]:
        return session.of(group, driver=driver, workload=workload, clients=clients)

    return find


def _writers(session: Session) -> list[Verdict]:
    find = _finder(session, ROUNDS)
    ours_p50, theirs_p50 = (_median(find(d, "kv1k", 1), "p50") for d in ("ours", "dqlite"))
    ours_p99, theirs_p99 = (_median(find(d, "kv1k", 1), "p99") for d in ("ours", "dqlite"))
    spread_p50 = _median(find("ours-spread", "kv1k", 1), "p50")
    ours, theirs = find("ours", "kv1k", 16), find("dqlite", "kv1k", 16)
    spread_rate = _median(find("ours-spread", "kv1k", 16))
    ours_rate, theirs_rate = _median(ours), _median(theirs)
    busy = sum(sample.errors.get(BUSY, 0) for sample in ours)
    their_busy = sum(sample.errors.get(BUSY, 0) for sample in theirs)
    return [
        Verdict(
            "one writer: p50 to dqlite's",
            ratio(ours_p50, theirs_p50),
            "x",
            0.7,
            True,
            f"KV upsert of 1 KiB: {ours_p50:.2f} ms, dqlite {theirs_p50:.2f} ms (its p99 is "
            f"{ratio(theirs_p99, ours_p99):.1f} x ours); leader not on one processor {spread_p50:.2f} ms",
        ),
        Verdict(
            "16 writers: successful writes to dqlite's",
            ratio(ours_rate, theirs_rate),
            "x",
            20,
            False,
            f"KV upsert of 1 KiB: {ours_rate:,.0f}/s, dqlite {theirs_rate:,.0f}/s with {their_busy:,} BUSY; "
            f"leader not on one processor {spread_rate:,.0f}/s",
        ),
        Verdict("16 writers: BUSY errors", busy if ours else float("nan"), "", 0, True, "ours, all rounds"),
    ]


def _throughput(session: Session) -> list[Verdict]:
    find = _finder(session, ROUNDS)
    writers = find("ours", "insert", 64)
    fdatasync_ms = _median(writers, "fdatasync_ms")
    batches = {clients: _median(find("ours", "batch1000", clients), "rows_rate") for clients in (1, 4)}
    plain = _median(find("sqlite-apsw", "insert", 1))
    one = _median(find("ours", "insert", 1))
    spread = _median(find("ours-spread", "insert", 64))
    by_writers = scaling_series(session)
    told = ", ".join(f"{count:,}: {rate:,.0f}/s" for count, rate in by_writers)
    return [
        Verdict(
            "64 writers",
            _median(writers),
            "rows/s",
            25_000,
            False,
            f"single-row INSERT of 100 B; fdatasync {fdatasync_ms:.2f} ms; leader not on one "
            f"processor {spread:,.0f}/s; one writer {one:,.0f}/s, "
            f"SQLite alone {plain:,.0f}/s",
        ),
        Verdict(
            "writers added: worst ratio to the best with fewer",
            worst_fall([rate for _count, rate in by_writers]) if len(by_writers) > 1 else float("nan"),
            "x",
            FALL_TOLERANCE,
            False,
            told,
        ),
        Verdict(
            "executemany of 1,000 rows",
            batches[1],
            "rows/s",
            150_000,
            False,
            f"one client; with 4 clients {batches[4]:,.0f} rows/s",
        ),
    ]


def scaling_series(session: Session) -> list[tuple[int, float]]:
    """(writers, median rate over the rounds), ascending."""
    counts = sorted({sample.clients for sample in session.of(SCALING)})
    return [(count, _median(session.of(SCALING, clients=count))) for count in counts]


def _apply(session: Session) -> list[Verdict]:
    """From the figures that the apply group added."""
    return [
        Verdict(f.name, f.value, f.unit, f.bound, f.is_upper, f.note)
        for f in session.figures
        if "C apply" in f.name and f.bound is not None
    ]


def _reads(session: Session) -> list[Verdict]:
    find = _finder(session, ROUNDS)
    ours, plain = (_median(find(d, "read-stale", 1), "p50") for d in ("ours", "sqlite-apsw"))
    linearizable = _median(find("ours", "read-linearizable", READERS))
    rows = [
        Verdict(
            "point read, local level: time to apsw's on a plain file",
            ratio(ours, plain),
            "x",
            2,
            True,
            f"p50 {ours * 1000:.1f} us, apsw {plain * 1000:.1f} us",
        ),
        Verdict(f"linearizable, {READERS} readers on the leader", linearizable, "reads/s", 20_000, False),
    ]
    for level in ("read-linearizable", "read-stale"):
        alone = median_of(
            [p.sample for p in session.placed if p.group == "readers" and p.series == "leader"
             and p.sample.workload == level],
            "rate",
        )  # fmt: skip
        rates = [rate for _round, rate in session.curves.get(f"{SPREAD}|{level}", [])]
        spread = statistics.median(rates) if rates else float("nan")
        value = ratio(spread, alone)
        told = f"{alone:,.0f}/s on the leader, {spread:,.0f}/s on all three"
        rows.append(Verdict(f"{level} on three nodes to the leader alone", value, "x", 1.0, False, told))
    return rows


def _memory(session: Session) -> list[Verdict]:
    curves = {
        key.partition("|")[2]: curve for key, curve in session.curves.items() if key.startswith("memory|")
    }
    written = _median(session.of(ROUNDS, driver="ours", workload=BYTES, clients=16), "write_bytes")
    grown, told = float("nan"), ""
    if curves:
        grown = max(growth([y for _x, y in curve]) for curve in curves.values())
        last = {name: curve[-1] for name, curve in curves.items()}
        told = f"{max(x for x, _y in last.values()):,.0f} rows; at the end " + ", ".join(
            f"{name} {y:,.0f} MiB" for name, (_x, y) in last.items()
        )
    return [
        Verdict("memory: last quarter to second quarter, worst node", grown, "x", FLAT_TOLERANCE, True, told),
        Verdict(
            "bytes written per node and 1 KiB row, 16 writers",
            written,
            "B",
            4096,
            True,
            "journal and database",
        ),
    ]
