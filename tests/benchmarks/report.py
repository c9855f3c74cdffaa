"""Results on the terminal, as results/<stamp>/results.json and results.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import drivers
from tests.benchmarks.figures import Figure, shown
from tests.benchmarks.measures import LOST, Sample, median_of
from tests.benchmarks.session import Placed, Session
from tests.benchmarks.targets import Verdict

Row = tuple[str, ...]
COLUMNS = (
    *("database", "workload", "clients", "rows/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "errors"),
    *("CPU us/op", "leader's", "KB/op, node", "fsyncs/op", "fdatasync ms"),
)
WIDE = 150
NARROW_COLUMNS = 9
TARGET_COLUMNS = ("target", "measured", "bound", "", "detail")
TITLES = {
    "targets": "Rounds behind the targets (medians)",
    "scaling": "Writers (medians)",
    "readers": "Reads by node",
    "workloads": "Every workload, in process",
    "peers": "Over the network, and other databases",
    "open-loop": "Open loop: latency from the moment each arrival was due",
    "nodes": "Nodes",
    "values": "Size of a value",
    "database": "Size of the database",
    "log": "Length of the log",
    "memory": "After the rows of the memory curve",
}


def number(value: float | None, digits: int = 2) -> str:
    """Blank for what was not measured."""
    if value is None or math.isnan(value):
        return ""
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def merged(placed: Iterable[Placed]) -> list[tuple[Placed, list[Sample]]]:
    """Rounds of one point together, in order of the first."""
    found: dict[tuple[Any, ...], tuple[Placed, list[Sample]]] = {}
    for one in placed:
        s = one.sample
        offered = None if s.offered is None else round(s.offered)
        key = (one.group, s.driver, s.workload, s.clients, s.nodes, offered, one.x, one.series)
        found.setdefault(key, (one, []))[1].append(s)
    return list(found.values())


def sample_row(samples: Sequence[Sample], first: Placed) -> Row:
    """One row of COLUMNS: medians over the rounds, errors summed."""
    sample = first.sample
    errors: dict[str, int] = {}
    for one in samples:
        for kind, count in one.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    unserved = sum(one.unserved for one in samples)
    lost = sum(one.note == LOST for one in samples)
    if lost:
        errors["leader changed"] = lost
    if unserved:
        errors["not begun in time"] = unserved
    written = median_of(samples, "write_bytes")
    return (
        drivers.TITLES.get(sample.driver, sample.driver),
        _point(first),
        f"{sample.clients:,}",
        number(median_of(samples, "rows_rate"), 0),
        *(number(median_of(samples, name)) for name in ("p50", "p90", "p99", "p999")),
        ", ".join(f"{kind} {count:,}" for kind, count in errors.items()),
        number(median_of(samples, "cpu_us"), 1),
        number(median_of(samples, "cpu_leader_us"), 1),
        number(written / 1000, 2),
        number(median_of(samples, "fsyncs")),
        number(median_of(samples, "fdatasync_ms")),
    )


def _point(placed: Placed) -> str:
    """The workload, with what the group varies."""
    sample = placed.sample
    if sample.offered is not None:
        return f"{sample.workload}, {sample.offered:,.0f}/s offered"
    if placed.group == "nodes":
        return f"{sample.workload}, {sample.nodes} nodes"
    if placed.group == "database":
        return f"{sample.workload}, {placed.x:,.0f} MiB"
    if placed.group == "log":
        return f"{sample.workload}, {placed.x:,.0f} entries"
    return f"{sample.workload}, {placed.series}" if placed.group == "readers" else sample.workload


def target_row(verdict: Verdict) -> Row:
    sign = "<=" if verdict.is_upper else ">="
    value = f"{number(verdict.value)} {verdict.unit}".strip() if verdict.is_measured else ""
    return (
        verdict.name,
        value,
        f"{sign} {number(verdict.bound)}",
        verdict.word,
        verdict.detail if verdict.is_measured else "",
    )


def tables(session: Session, verdicts: Sequence[Verdict]) -> list[tuple[str, Row, list[Row]]]:
    """(title, columns, rows) of everything measured."""
    found: list[tuple[str, Row, list[Row]]] = []
    if any(verdict.is_measured for verdict in verdicts):
        found.append(("Targets", TARGET_COLUMNS, [target_row(verdict) for verdict in verdicts]))
    if session.figures:
        found.append(
            (
                "Figures",
                ("what", "value", "unit", "target", "", "note"),
                [_figure(f) for f in session.figures],
            )
        )
    for group in dict.fromkeys(placed.group for placed in session.placed):
        rows = [
            sample_row(samples, first)
            for first, samples in merged(p for p in session.placed if p.group == group)
        ]
        found.append((TITLES.get(group, group), COLUMNS, rows))
    for group in dict.fromkeys(key.partition("|")[0] for key in session.curves):
        rows = [
            (key.partition("|")[2], f"{x:,.0f}", number(y))
            for key, curve in session.curves.items()
            if key.partition("|")[0] == group
            for x, y in _thinned(curve)
        ]
        found.append((f"Curve: {group}", ("series", "at", "value"), rows))
    return found


def _figure(figure: Figure) -> Row:
    return (figure.name, shown(figure.value), figure.unit, figure.target, figure.verdict, figure.note)


def _thinned(curve: Sequence[tuple[float, float]], most: int = 12) -> list[tuple[float, float]]:
    """First, last and a few between; the JSON file has all."""
    if len(curve) <= most:
        return list(curve)
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]


def show(console: Console, session: Session, verdicts: Sequence[Verdict]) -> None:
    """On a narrow terminal the tables of samples lose their last columns; the files have all."""
    for title, columns, rows in tables(session, verdicts):
        if columns is COLUMNS and console.width < WIDE:
            columns, rows = columns[:NARROW_COLUMNS], [row[:NARROW_COLUMNS] for row in rows]
        table = Table(title=title)
        for position, column in enumerate(columns):
            is_number = position > 1 and columns[0] == COLUMNS[0]
            table.add_column(column, justify="right" if is_number else "left")
        for row in rows:
            table.add_row(*row, style="red" if "MISSED" in row else "")
        console.print(table)
    for name, why in session.skipped.items():
        console.print(f"left out: {drivers.TITLES[name]}: {why}", highlight=False)
    for failure in session.failures:
        console.print(f"FAILED: {failure}", style="red", highlight=False, markup=False)


def write(
    folder: Path,
    machine: dict[str, Any],
    session: Session,
    verdicts: Sequence[Verdict],
    repeat: str,
    plots: Sequence[str],
) -> Path:
    """results.json and results.md in `folder`; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    body = {
        "machine": machine,
        "repeat": repeat,
        "seconds": session.seconds,
        "targets": [{**asdict(verdict), "verdict": verdict.word} for verdict in verdicts],
        "figures": [asdict(figure) for figure in session.figures],
        "samples": [
            {"group": p.group, "x": p.x, "series": p.series, **p.sample.to_json()} for p in session.placed
        ],
        "curves": session.curves,
        "texts": session.texts,
        "failures": session.failures,
        "skipped": session.skipped,
    }
    (folder / "results.json").write_text(json_text(body))
    path = folder / "results.md"
    path.write_text(markdown(folder.name, machine, session, verdicts, repeat, plots))
    return path


def json_text(body: dict[str, Any]) -> str:
    """One line per item of the lists and maps at the top, so that two runs can be compared by line."""
    parts = []
    for key, value in body.items():
        if isinstance(value, list) and value:
            told = "[\n" + ",\n".join(f"  {json.dumps(_plain(item))}" for item in value) + "\n ]"
        elif isinstance(value, dict) and value:
            items = (f"  {json.dumps(name)}: {json.dumps(_plain(item))}" for name, item in value.items())
            told = "{\n" + ",\n".join(items) + "\n }"
        else:
            told = json.dumps(_plain(value))
        parts.append(f" {json.dumps(key)}: {told}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _plain(value: Any) -> Any:
    """NaN is not JSON: null. Six digits are more than a measurement has."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def markdown(
    title: str,
    machine: dict[str, Any],
    session: Session,
    verdicts: Sequence[Verdict],
    repeat: str,
    plots: Sequence[str],
) -> str:
    lines = [f"# Benchmarks of {title}", "", f"Repeat: `{repeat}` ({session.seconds:,.0f} s)", ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    lines += ["", *NOTES]
    for heading, columns, rows in tables(session, verdicts):
        lines += ["", f"## {heading}", "", _line(columns), "|" + "---|" * len(columns)]
        lines += [_line(row) for row in rows]
        if heading == "Targets":
            lines += _plot_lines([name for name in plots if name.startswith("summary")])
    lines += _plot_lines([name for name in plots if not name.startswith("summary")])
    notes = {(p.sample.driver, p.sample.note) for p in session.placed if p.sample.note}
    if notes or session.skipped or session.failures:
        lines += ["", "## Notes", ""]
        lines += [f"- {drivers.TITLES.get(name, name)}: {note}" for name, note in sorted(notes)]
        lines += [f"- left out: {drivers.TITLES[name]}: {why}" for name, why in session.skipped.items()]
        lines += [f"- failed: {failure.splitlines()[0]}" for failure in session.failures]
    for heading, text in session.texts.items():
        lines += ["", f"## {heading}", "", "```", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


NOTES = (
    "Latencies are of single operations; rows/s counts rows (1,000 per executemany, 10 per transaction). CPU is that",
    "of all node processes per operation, and the leader's alone; in process it includes the client threads. KB/op is",
    "what went to the disk during the window, by everybody, per operation and node: right only on an idle machine.",
    "fsyncs/op counts fsync and fdatasync of all nodes, by perf; blank: not countable here.",
    "fdatasync is the machine's own, just before. Rounds are shown as medians.",
)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _plot_lines(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        found += ["", f"![{name}]({name}.svg)"]
    return found
