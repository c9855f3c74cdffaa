"""Figures of a run, the table on the terminal and the files in results/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `bound` is the issue's target (None: for information)."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    is_upper: bool = False  # the bound is a maximum
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return ""
        return "ok" if (self.value <= self.bound if self.is_upper else self.value >= self.bound) else "MISSED"

    @property
    def target(self) -> str:
        return "" if self.bound is None else f"{'<' if self.is_upper else '>='} {_shown(self.bound)}"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(console: Console, figures: Sequence[Figure]) -> None:
    table = Table(title="dqlite-py figures")
    table.add_column("what")
    for column in ("value", "unit", "target", ""):
        table.add_column(column, justify="right" if column in ("value", "target") else "left")
    for figure in figures:
        style = "red" if figure.verdict == "MISSED" else ""
        table.add_row(
            figure.name, _shown(figure.value), figure.unit, figure.target, figure.verdict, style=style
        )
    console.print(table)


def write_files(
    folder: Path, stamp: str, machine: dict[str, Any], figures: Sequence[Figure], repeat: str
) -> Path:
    """results/<stamp>.json and .md; returns the latter."""
    folder.mkdir(exist_ok=True)
    body = {"machine": machine, "repeat": repeat, "figures": [asdict(figure) for figure in figures]}
    (folder / f"{stamp}.json").write_text(json.dumps(body, indent=2) + "\n")
    lines = [f"# Figures of {stamp}", "", f"Repeat: `{repeat}`", ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    lines += ["", "| what | value | unit | target | | note |", "|---|---:|---|---:|---|---|"]
    lines += [
        f"| {f.name} | {_shown(f.value)} | {f.unit} | {f.target} | {f.verdict} | {f.note} |" for f in figures
    ]
    path = folder / f"{stamp}.md"
    path.write_text("\n".join(lines) + "\n")
    return path
