"""Builds the index of all runs from the verdict.json files below a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
        if _is_verdict(verdict):
            runs.append(Run(folder, verdict))
        else:
            skipped.append(folder.name)
    runs.sort(key=lambda run: run.started, reverse=True)
    return runs, skipped


def write_index(out: Path) -> Path:
    """Write `out`/index.html; returns its path."""
    runs, skipped = read_runs(out)
    path = out / "index.html"
    try:
        path.write_text(index_page(runs, skipped), encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; choose another --out") from None
    return path


def _is_verdict(found: Any) -> bool:
    """Whether it has the shape that the pages rely on (see folder.to_json); files get cut off and edited."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("pictures", []), list)
        and isinstance(found.get("notes", []), list)
        and isinstance(items := found.get("verdicts", []), list)
        and all(isinstance(item, dict) and item.get("valid") in (True, False, None) for item in items)
    )
