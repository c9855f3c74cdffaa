"""Builds the index of all runs from the verdict.json files below a folder."""

from __future__ import annotations

import json
from pathlib import Path

from jepsen.errors import SetupError
from jepsen.report.pages import Run, index_page


def read_runs(out: Path) -> tuple[list[Run], list[str]]:
    """The runs below `out`, newest first, and the names of folders whose verdict cannot be read (a run that broke off).

    Raises SetupError when `out` is not a folder.
    """
    if not out.is_dir():
        raise SetupError(f"{out} is not a folder; run something first, or name another --out")
    runs: list[Run] = []
    skipped: list[str] = []
    for folder in sorted((path for path in out.iterdir() if path.is_dir()), reverse=True):
        try:
            verdict = json.loads((folder / "verdict.json").read_text("utf-8"))
        except (OSError, ValueError):
            skipped.append(folder.name)
            continue
        if isinstance(verdict, dict):
            runs.append(Run(folder, verdict))
        else:
            skipped.append(folder.name)
    runs.sort(key=lambda run: run.started, reverse=True)
    return runs, skipped


def write_index(out: Path) -> Path:
    """Write `out`/index.html; returns its path."""
    runs, skipped = read_runs(out)
    path = out / "index.html"
    path.write_text(index_page(runs, skipped), encoding="utf-8")
    return path
