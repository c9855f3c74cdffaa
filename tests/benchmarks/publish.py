"""Copy a run's tables and pictures into docs/benchmarks/<stamp>/, to be committed."""

from __future__ import annotations

import shutil
from pathlib import Path

HEAD = """# Benchmark runs

Written by `make bench ARGS=--publish`; each run names its machine and commit. Every database gets the same workload, on
the same disk, in the same run, three nodes on loopback unless a table says otherwise:

- ours in process: client threads in the leader's process, two more node processes; C and Python engine
- ours over the network: client processes that call the leader's RPC methods
- SQLite alone: WAL and synchronous=FULL, through apsw and through sqlite3
- dqlite: Debian's `dqlite-benchmark`, its own clients in the leader's process; only successful operations are counted
  as such, SQLITE_BUSY apart
- etcd, rqlite, hiqlite: when their programs are on PATH

An open loop starts operations at a fixed rate and counts latency from the moment each was due. Ratios compare medians
of several rounds in which the databases take turns.
"""
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
    return "\n".join([HEAD, *(f"- [{run}]({run}/README.md)" for run in runs)]) + "\n"


def newest(results: Path) -> Path:
    """The newest run below results/; FileNotFoundError when there is none."""
    found = sorted(path.parent for path in results.glob("*/results.md"))
    if not found:
        raise FileNotFoundError(f"no run in {results}: make bench first")
    return found[-1]
