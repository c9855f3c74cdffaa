"""Copy a run's tables and pictures into docs/benchmarks/<stamp>/, to be committed."""

from __future__ import annotations

import shutil
from pathlib import Path

PUBLISHED = {".md", ".json", ".svg", ".png"}


def publish(result: Path, docs: Path) -> Path:
    """`result`: a folder below results/. Returns the new README.md; FileNotFoundError when it holds no run."""
    source = result / "results.md"
    if not source.is_file():
        raise FileNotFoundError(f"{result} holds no results.md")
    target = docs / result.name
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(result.iterdir()):
        if path.suffix in PUBLISHED:
            shutil.copyfile(path, target / ("README.md" if path.name == "results.md" else path.name))
    index = docs / "README.md"
    index.write_text(index_text(docs))
    return target / "README.md"


def index_text(docs: Path) -> str:
    """The list of published runs, newest first."""
    runs = sorted((path.parent.name for path in docs.glob("*/README.md")), reverse=True)
    lines = [
        "# Benchmark runs",
        "",
        "Written by `make bench ARGS=--publish`; each names its machine and commit.",
        "",
    ]
    return "\n".join([*lines, *(f"- [{run}]({run}/README.md)" for run in runs)]) + "\n"


def newest(results: Path) -> Path:
    """The newest run below results/; FileNotFoundError when there is none."""
    found = sorted(path.parent for path in results.glob("*/results.md"))
    if not found:
        raise FileNotFoundError(f"no run in {results}: make bench first")
    return found[-1]
