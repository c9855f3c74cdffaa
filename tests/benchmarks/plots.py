"""Pictures of a run, PNG and SVG beside the tables. Uses matplotlib without a display."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter

from tests.benchmarks import drivers
from tests.benchmarks.measures import CURVE_SHARES, Sample, median_of
from tests.benchmarks.report import TITLES, merged
from tests.benchmarks.session import Placed, Session
from tests.benchmarks.targets import Verdict
from tests.benchmarks.workloads import KNOWN

SIZE = (8.0, 4.5)
TICKS_MAX = 10
COLOURS = {
    "ours": "#1f6fb2",
    "ours-spread": "#2f5d8a",
    "ours-python": "#7fb3dd",
    "ours-network": "#134a77",
    "ours-network-python": "#5d87ab",
    "dqlite": "#c0392b",
    "sqlite-apsw": "#7f8c8d",
    "sqlite-sqlite3": "#b2babb",
    "rqlite": "#8e44ad",
    "etcd": "#d68910",
    "hiqlite": "#16a085",
}


def draw(folder: Path, session: Session, verdicts: Sequence[Verdict]) -> list[str]:
    """Write every picture there is data for; returns their names without ending."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    pictures = (
        ("summary-targets", lambda axes: targets(axes, verdicts)),
        ("throughput-kv1k", lambda axes: by_clients(axes, session, "kv1k")),
        ("throughput-insert", lambda axes: by_clients(axes, session, "insert")),
        ("throughput-read-linearizable", lambda axes: by_clients(axes, session, "read-linearizable")),
        ("latency-one-writer", lambda axes: latencies(axes, session, 1)),
        ("latency-16-writers", lambda axes: latencies(axes, session, 16)),
        ("scaling-writers", lambda axes: lines(axes, session, "scaling", "writers", "rows/s", log_x=True)),
        ("open-loop", lambda axes: open_loop(axes, session)),
        ("nodes", lambda axes: lines(axes, session, "nodes", "nodes", "rows/s")),
        ("values", lambda axes: lines(axes, session, "values", "bytes of a value", "rows/s", True, True)),
        (
            "database",
            lambda axes: lines(axes, session, "database", "MiB of database", "operations/s", True, True),
        ),
        ("log-length", lambda axes: lines(axes, session, "log", "log entries", "p50 ms", value="p50")),
        ("log-restart", lambda axes: curves(axes, session, "log restart", "log entries", "s until applied")),
        ("memory", lambda axes: curves(axes, session, "memory", "rows written", "resident MiB")),
        (
            "database-memory",
            lambda axes: curves(axes, session, "database memory", "MiB of database", "resident MiB"),
        ),
    )
    for name, fill in pictures:
        figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
        try:
            if fill(axes):
                for ending in ("png", "svg"):
                    figure.savefig(folder / f"{name}.{ending}", dpi=110)
                names.append(name)
        finally:
            pyplot.close(figure)
    return names


def targets(axes: Any, verdicts: Sequence[Verdict]) -> bool:
    """How far from its bound each target is: to the right of 1 it is met."""
    rows = [v for v in verdicts if v.is_measured and v.bound > 0 and v.value > 0]
    if not rows:
        return False
    reached = [v.bound / v.value if v.is_upper else v.value / v.bound for v in rows]
    bars = axes.barh(
        [v.name for v in rows], reached, color=["#2e8b57" if v.is_met else "#c0392b" for v in rows]
    )
    axes.bar_label(bars, [f" {value:.2g}" for value in reached])
    axes.margins(x=0.15)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("measured to target (1: just met)")
    return True


def by_clients(axes: Any, session: Session, workload: str) -> bool:
    """Rows per second over clients, one line per database."""
    chosen = [
        p
        for p in session.placed
        if p.group in ("workloads", "peers", "targets") and p.sample.workload == workload
    ]
    points: dict[str, dict[int, list[Sample]]] = {}
    for placed in chosen:
        points.setdefault(placed.sample.driver, {}).setdefault(placed.sample.clients, []).append(
            placed.sample
        )
    for driver, found in points.items():
        xs = sorted(found)
        ys = [median_of(found[x], "rows_rate") for x in xs]
        axes.plot(xs, ys, marker="o", label=drivers.TITLES.get(driver, driver), color=COLOURS.get(driver))
    title = f"{KNOWN[workload].title}: successful operations"
    return _finish(axes, points, title, "clients", "rows per second", True, True)


def latencies(axes: Any, session: Session, clients: int) -> bool:
    """Latency by share of operations, all databases, KV upsert of 1 KiB."""
    chosen: dict[str, Sample] = {}
    for placed in session.placed:
        sample = placed.sample
        if (
            sample.workload == "kv1k"
            and sample.clients == clients
            and sample.curve
            and sample.offered is None
        ):
            chosen.setdefault(sample.driver, sample)
    for driver, sample in chosen.items():
        tail = [1 / (1 - min(share, 0.99999)) for share in CURVE_SHARES]
        axes.plot(tail, sample.curve, label=drivers.TITLES.get(driver, driver), color=COLOURS.get(driver))
    if not chosen:
        return False
    axes.set_xticks([2, 10, 100, 1000, 10000], ["p50", "p90", "p99", "p99.9", "p99.99"])
    found = _finish(
        axes, chosen, f"KV upsert of 1 KiB, {clients} clients: latency", "share", "ms", True, True
    )
    axes.set_xticks([2, 10, 100, 1000, 10000], ["p50", "p90", "p99", "p99.9", "p99.99"])
    axes.set_xlim(1, 20_000)
    return found


def open_loop(axes: Any, session: Session) -> bool:
    """p50 and p99 over the offered rate."""
    chosen = [p for p in session.placed if p.group == "open-loop" and p.sample.offered is not None]
    for driver in dict.fromkeys(p.sample.driver for p in chosen):
        samples = [p.sample for p in chosen if p.sample.driver == driver]
        for name, style in (("p50", "-"), ("p99", "--")):
            axes.plot(
                [s.offered for s in samples],
                [getattr(s, name) for s in samples],
                style,
                marker="o",
                label=f"{drivers.TITLES.get(driver, driver)}, {name}",
                color=COLOURS.get(driver),
            )
    title = "Open loop: latency from the moment each write was due"
    return _finish(axes, chosen, title, "offered per second", "ms", False, True)


def lines(
    axes: Any,
    session: Session,
    group: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    value: str = "rows_rate",
) -> bool:
    """A group's samples over its x, one line per series, medians over rounds."""
    found = merged(p for p in session.placed if p.group == group and p.x is not None)
    by_series: dict[str, list[tuple[float, float]]] = {}
    for first, samples in found:
        by_series.setdefault(first.series, []).append((_x(first), median_of(samples, value)))
    for series, points in by_series.items():
        ordered = sorted(points)
        axes.plot([x for x, _y in ordered], [y for _x_, y in ordered], marker="o", label=series or y_label)
    done = _finish(axes, found, TITLES.get(group, group), x_label, y_label, log_x, log_y)
    if not log_y:
        axes.set_ylim(bottom=0)
    return done


def _x(placed: Placed) -> float:
    return 0.0 if placed.x is None else placed.x


def curves(axes: Any, session: Session, group: str, x_label: str, y_label: str) -> bool:
    chosen = {
        key.partition("|")[2]: curve for key, curve in session.curves.items() if key.startswith(f"{group}|")
    }
    for series, curve in chosen.items():
        axes.plot([x for x, _y in curve], [y for _x_, y in curve], marker=".", label=series)
    done = _finish(axes, chosen, group, x_label, y_label, False, False)
    axes.set_ylim(bottom=0)
    return done


def _finish(axes: Any, data: Iterable[Any], title: str, x: str, y: str, log_x: bool, log_y: bool) -> bool:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    plain = FuncFormatter(lambda value, _position: f"{value:,g}")
    if log_x:
        places = sorted({x for line in axes.get_lines() for x in line.get_xdata()})
        if len(places) <= TICKS_MAX:
            axes.set_xticks(places, minor=False)
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(NullFormatter())
    if log_y:
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, alpha=0.3)
    if not data:
        return False
    axes.legend(fontsize="small")
    return True
